"""The directory in which the workers collect their metrics while the service runs.

All processes of the service lock it. So the next service recognizes a directory that a killed
service has left, and removes it.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "holdfast-metrics-"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory in it is made as safely as in /tmp
NEW_SECONDS = 60.0  # a newer directory may not be locked yet


@contextmanager
def metrics_directory() -> Iterator[None]:
    """Make the directory; `prometheus_client` reads its name once, when it is imported."""
    parent = _choose_parent()
    _remove_abandoned(parent)
    directory = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    lock = os.open(directory, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    try:
        yield
    finally:
        os.close(lock)
        shutil.rmtree(directory, ignore_errors=True)


def forget_process(pid: int) -> None:
    """Remove the live gauges of a process that has ended; its counters stay."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)


def _choose_parent() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # the file system is read-only, as in some containers
        return SHARED_MEMORY


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is another user's, in use, or already removed
            if time.time() - directory.stat().st_mtime > NEW_SECONDS:
                lock = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(directory)
                finally:
                    os.close(lock)
