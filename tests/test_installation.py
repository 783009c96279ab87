"""The size of the page cache (shared_buffers) of the private PostgreSQL."""

import pytest

from db.embedded import installation
from db.embedded.installation import memory_bytes, shared_buffers_megabytes

GB = 2**30


@pytest.mark.parametrize(
    ("memory", "megabytes"), [(GB // 2, 128), (2 * GB, 128), (8 * GB, 512), (64 * GB, 1024)]
)
def test_shared_buffers_are_a_sixteenth_of_the_memory_within_bounds(memory, megabytes):
    assert shared_buffers_megabytes(memory) == megabytes


@pytest.mark.parametrize(
    ("limit", "binds"), [("1073741824\n", True), ("max\n", False), ("", False)]
)
def test_the_memory_limit_of_a_container_counts_as_its_memory(monkeypatch, tmp_path, limit, binds):
    monkeypatch.setattr(installation, "MEMORY_LIMITS", (tmp_path / "none",))
    everything = memory_bytes()
    (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(installation, "MEMORY_LIMITS", (tmp_path / "limit", tmp_path / "none"))
    assert memory_bytes() == (GB if binds else everything)
