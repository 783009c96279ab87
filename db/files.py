"""Files that only their owner may read, and that are written atomically and durably."""

import os
import tempfile
from pathlib import Path

UNFINISHED = ".unfinished-"
"""A part of the names of unfinished files and directories, which lie beside their targets."""


def make_directory(path: Path) -> None:
    """Create the directory `path` if it is missing; other users may enter but not list it.

    Under root, PostgreSQL runs as another user, which may have to reach its binaries there.
    """
    path.mkdir(mode=0o711, parents=True, exist_ok=True)


def open_private(path: Path, flags: int) -> int:
    """Open a file that only its owner can open from now on; create it if it is missing.

    Other users must not open it, because then they could also lock it.
    """
    handle = os.open(path, flags | os.O_CREAT, 0o600)
    if os.fstat(handle).st_mode & 0o077:  # made by an older version or under another umask
        os.fchmod(handle, 0o600)
    return handle


def write_private(path: Path, text: str) -> None:
    """Replace the private file `path` in one step that survives a power cut."""
    handle, aside = tempfile.mkstemp(prefix=f"{path.name}{UNFINISHED}", dir=path.parent)  # mode 600
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    Path(aside).replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names of the files in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
