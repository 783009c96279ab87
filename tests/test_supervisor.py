"""The supervisor announces a service only when it serves, and fails when it can't."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server import ServerProcess, await_url, environment, start


@dataclass
class Reluctant:
    """A service whose workers wait for a word."""

    process: ServerProcess
    log: Path
    gate: Path

    def say(self, word: str) -> None:
        """Let the waiting workers go on."""
        written = self.gate.with_suffix(".new")
        written.write_text(word)
        written.rename(self.gate)


@pytest.fixture
async def reluctant(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Reluctant]:
    tmp_path.chmod(0o755)
    gate, log = tmp_path / "gate", tmp_path / "log"
    monkeypatch.setenv("RELUCTANT_GATE", str(gate))
    log.touch()
    settings = {
        "data_dir": tmp_path / "data", "database_url": database_url, "port": 0, "workers": 2,
    }  # fmt: skip
    process = start("tests.reluctant", environment(settings), log, ())
    try:
        while log.read_text().count("a worker waits") < 2:
            assert process.poll() is None, log.read_text()
            await asyncio.sleep(0.02)
        yield Reluctant(process, log, gate)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def test_the_address_is_announced_only_when_a_worker_serves(reluctant):
    assert "listens on" not in reluctant.log.read_text()
    reluctant.say("serve")
    assert await asyncio.to_thread(await_url, reluctant.process, reluctant.log)
    reluctant.process.terminate()
    assert await asyncio.to_thread(reluctant.process.wait, 60) == 0


async def test_the_exit_code_is_1_when_no_worker_can_start(reluctant):
    reluctant.say("fail")
    assert await asyncio.to_thread(reluctant.process.wait, 60) == 1
    said = reluctant.log.read_text()
    assert "holdfast: no worker could start" in said
    assert "listens on" not in said


async def test_a_stop_before_any_worker_serves_ends_with_0(reluctant):
    reluctant.process.terminate()
    reluctant.say("serve")
    assert await asyncio.to_thread(reluctant.process.wait, 60) == 0
    assert "no worker could start" not in reluctant.log.read_text()
