"""Processes under test: whose child is whose, killing without goodbye, freezing."""

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_MAX = 30.0  # for a process to be gone or to stop: only a hang takes so long


def status_of(pid: int) -> list[str]:
    """The fields of proc(5)'s `stat` from the state on; none if there is no such process."""
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
    """A process and all that it has started and that still run, the youngest last."""
    running = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if entry.is_dir()]
    parents = {member: status_of(member)[1:2] for member in running if is_running(member)}
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == [str(member)]]
    return family


def kill_all(pids: Iterable[int]) -> None:
    """Kill with -9 and wait until none is left but as a zombie."""
    pids = list(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    give_up_at = time.monotonic() + SECONDS_MAX
    while any(map(is_running, pids)) and time.monotonic() < give_up_at:
        time.sleep(0.005)


def kill_for_good(pids: Iterable[int]) -> None:
    """Kill PostgreSQL processes whose next start nobody waits for, and free their shared memory."""
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
    """Let processes neither run nor end: what asks them waits."""
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
