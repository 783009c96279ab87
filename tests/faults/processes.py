"""Processes under test: finding their children, killing and freezing them."""

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_MAX = 30.0  # for a process to end or to stop; only a process that hangs takes longer


def status_of(pid: int) -> list[str]:
    """The fields of `stat` in proc(5), from the state on; none if the process does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    return status_of(pid)[:1] not in ([], ["Z"], ["X"])


def is_stopped(pid: int) -> bool:
    return status_of(pid)[:1] == ["T"]


def is_postgres(pid: int) -> bool:
    with suppress(OSError):
        return "postgres" in Path(f"/proc/{pid}/comm").read_text()
    return False


def family_of(pid: int) -> list[int]:
    """A process and all its descendants that still run, the youngest last."""
    running = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if entry.is_dir()]
    parents = {member: status_of(member)[1:2] for member in running if is_running(member)}
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == [str(member)]]
    return family


def kill_all(pids: Iterable[int]) -> None:
    """Send SIGKILL and wait until every process has ended or is a zombie."""
    pids = list(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    give_up_at = time.monotonic() + SECONDS_MAX
    while any(map(is_running, pids)) and time.monotonic() < give_up_at:
        time.sleep(0.005)


def kill_for_good(pids: Iterable[int]) -> None:
    """Kill PostgreSQL processes that will not start again, and free their shared memory."""
    pids = list(pids)
    segments: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            segments |= set(re.findall(r"/dev/shm/PostgreSQL\S+", maps))
    kill_all(pids)
    for segment in segments:
        Path(segment).unlink(missing_ok=True)


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Freeze processes during the block, so that their clients wait."""
    pids = list(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
