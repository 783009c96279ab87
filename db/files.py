"""Files that only their owner may read, whole or not at all, and there after a power cut."""

import os
import tempfile
from pathlib import Path

UNFINISHED = ".unfinished-"
"""In the names of files and directories that are being prepared beside the place they are for."""


def make_directory(path: Path) -> None:
    """Make the directory `path` if it does not exist: others may pass through and see nothing.

    Root's PostgreSQL is another user and may have to reach its binaries there.
    """
    path.mkdir(mode=0o711, parents=True, exist_ok=True)


def open_private(path: Path, flags: int) -> int:
    """Open a file, made if it is missing, that only its owner can open from now on.

    Whoever can open a file can lock it, too.
    """
    handle = os.open(path, flags | os.O_CREAT, 0o600)
    if os.fstat(handle).st_mode & 0o077:  # an older version's, or under another umask
        os.fchmod(handle, 0o600)
    return handle


def write_private(path: Path, text: str) -> None:
    """Replace the file `path`, which only we may read, in one step that survives a power cut."""
    handle, aside = tempfile.mkstemp(prefix=f"{path.name}{UNFINISHED}", dir=path.parent)  # mode 600
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    Path(aside).replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
