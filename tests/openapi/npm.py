"""The tools of package.json, installed once for each version of the lock file.

They live in a cache directory outside the tree, where processes that run in parallel share them.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.brokers import missing

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", "redocly.mjs", "spectral.yaml")
NODE_MIN = 18
REMEDY = f"install Node {NODE_MIN} or later: apt-get install nodejs npm"


@cache
def installed() -> Path:
    """Return the directory of the tools, or skip the test (fail it in CI) if there is no Node."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            missing(f"there is no {command}; {REMEDY}")
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True)
    if int(version.stdout.removeprefix("v").partition(".")[0]) < NODE_MIN:
        missing(f"node is {version.stdout.strip()}; {REMEDY}")
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "holdfast-tests")
    cached.mkdir(parents=True, exist_ok=True)
    contents = b"".join((HERE / name).read_bytes() for name in FILES)
    directory = cached / f"openapi-{hashlib.sha256(contents).hexdigest()[:16]}"
    with (cached / "openapi.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process installs, the others wait for it
        if not (directory / "complete").exists():
            _install(directory)
    return directory


def _install(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name in FILES:
        shutil.copy(HERE / name, directory)
    # No tool needs its install script; one of them would report the installation to its maker.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = run(command, directory)
    assert done.returncode == 0, done.stdout
    (directory / "complete").touch()


def run(command: Sequence[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; return its standard output and its errors as one text."""
    return subprocess.run(
        command,
        cwd=directory,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
