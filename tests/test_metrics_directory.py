"""A service removes the metrics directories of killed services, and no other directory."""

import os
import tempfile

import pytest

from service.ops.metrics_directory import NEW_SECONDS, PREFIX, metrics_directory


@pytest.fixture
def parent(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    yield tmp_path
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


def age(directory):
    directory.mkdir(exist_ok=True)
    (directory / "counter_1.db").write_bytes(b"7")
    os.utime(directory, (0, directory.stat().st_mtime - 2 * NEW_SECONDS))


def test_the_directory_exists_while_the_service_runs(parent):
    with metrics_directory():
        (made,) = parent.iterdir()
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(made)
    assert list(parent.iterdir()) == []


def test_the_directory_of_a_killed_service_is_removed(parent):
    age(parent / f"{PREFIX}left")
    with metrics_directory():
        assert not (parent / f"{PREFIX}left").exists()


def test_directories_that_are_new_in_use_or_foreign_are_kept(parent):
    (parent / f"{PREFIX}new").mkdir()
    age(parent / "others")
    with metrics_directory():
        (used,) = set(parent.iterdir()) - {parent / "others", parent / f"{PREFIX}new"}
        age(used)
        with metrics_directory():
            assert {parent / "others", parent / f"{PREFIX}new", used} < set(parent.iterdir())
