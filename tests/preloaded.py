"""Commands of the service as processes that start with most of the imports done.

Imports take most of the time of a start, and the tests start hundreds of commands. A fork server
(`multiprocessing`) imports the modules once that depend on no setting, and each process is a fork
of it. Like `python -m service …`, a fork has its own environment and output, and runs the module
as `__main__`.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND_SECONDS_MAX = 60.0  # only a command that hangs takes longer
MODULES = [
    "alembic.command",
    "click",
    "db.migrate",
    "db.models",
    "db.session.database",
    "httpx",
    "litestar",
    "msgspec",
    "pydantic_settings",
    "rich.console",
    "service.domain.planner",
    "service.input.bodies",
    "service.input.import_file",
    "service.settings",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.ext.asyncio",
    "structlog",
    "tests.preloaded",
    "uvicorn.protocols.http.httptools_impl",
]
"""No module among them imports `prometheus_client`, which must first know its directory."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(MODULES)


class PreloadedProcess:
    """A process that runs a command; it is used like a `subprocess.Popen`.

    It writes its output to the files `stdout` and `stderr`, which may be the same.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: Path,
        stderr: Path,
    ) -> None:
        self._process: ForkServerProcess = _context.Process(
            target=_run, args=(module, arguments, dict(environment), stdout, stderr)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or a signal's negative number; None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; raise `TimeoutExpired` after a timeout."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("holdfast", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_command(
    *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `holdfast` with these arguments to its end; return its exit code and its output."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as directory:
        stdout, stderr = Path(directory, "stdout"), Path(directory, "stderr")
        process = PreloadedProcess("service", arguments, environment, stdout, stderr)
        try:
            code = process.wait(COMMAND_SECONDS_MAX)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, code, stdout.read_text(), stderr.read_text())


def _run(
    module: str, arguments: Sequence[str], environment: dict[str, str], stdout: Path, stderr: Path
) -> None:
    if "prometheus_client" in sys.modules:
        raise AssertionError("a module of MODULES imports prometheus_client too early")
    for descriptor, path in ((1, stdout), (2, stderr)):
        output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, descriptor)
        os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the next call finds it in this environment
    sys.argv = ["holdfast", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
