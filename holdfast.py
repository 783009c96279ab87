"""The command `holdfast`: an application that imports its own modules, wherever it is started.

Its packages have plain names, `db` and `service`, and PYTHONPATH comes before installed packages.
So a `db.py` of the caller would be imported in place of ours, unless this module prevents it.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line with modules that a PYTHONPATH of the caller can't replace."""
    sys.path[:] = protected_path(sys.path, os.environ.get("PYTHONPATH", ""))
    from service.cli import main as run  # noqa: PLC0415 - only now it can't be another one

    run()


def protected_path(path: list[str], pythonpath: str) -> list[str]:
    """Return the import path with the directories of PYTHONPATH after all others.

    The directory of this module comes first if it is not the one of the installed packages, as in a
    clone. Processes that `multiprocessing` starts get the same path.
    """
    own = Path(__file__).resolve().parent
    callers = {Path(entry).resolve() for entry in pythonpath.split(os.pathsep)}
    installed = [entry for entry in path if Path(entry).resolve() not in callers]
    named = [entry for entry in path if Path(entry).resolve() in callers]
    if own not in map(Path.resolve, map(Path, installed)):
        installed.insert(0, str(own))
    return installed + named
