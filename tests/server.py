"""`holdfast serve` as a process of its own, for tests that need a real server."""

import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from tests.preloaded import PreloadedProcess

ADMIN_KEY = "hf_tests-only-admin-key-0123456789"
STRATEGY = ("HOLDFAST_STRATEGY", "HOLDFAST_REDIS_URL", "HOLDFAST_ZOOKEEPER_HOSTS")
SECONDS_MAX = 120.0  # to start or stop: only a hang takes longer


ServerProcess: TypeAlias = PreloadedProcess | subprocess.Popen[bytes]


@dataclass(frozen=True)
class Server:
    """A running `holdfast serve`."""

    url: str
    key: str
    """The admin key, whose source is `admin`."""
    process: ServerProcess
    """The supervisor."""
    log: Path
    trusted: ssl.SSLContext | None = None
    """For clients of a server with TLS."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@contextmanager
def running_server(
    database_url: str | None,
    workers: int = 1,
    module: str = "service",
    before: Sequence[str | Path] = (),
    trusted: ssl.SSLContext | None = None,
    **settings: Any,
) -> Iterator[Server]:
    """Serve on a free port until the block ends. Other arguments are settings: `rate_limit=5`.

    Without an address of a database the server starts a private PostgreSQL. `module` may name a
    variant of the service. `before` is a command that runs the command after it, such as `nice`.
    `trusted` is the context of clients, if the settings name a certificate.
    At the end the server must stop when it is told to, with exit code 0, unless the test has
    killed it.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as directory:
        Path(directory).chmod(0o755)  # when we are root, PostgreSQL runs as another user
        log = Path(directory, "log")
        settings = {
            "data_dir": Path(directory, "data"),
            "admin_key": ADMIN_KEY,
            "database_url": database_url,
            "workers": workers,
            "port": 0,
            **settings,
        }
        log.touch()
        process = start(module, environment(settings), log, before)
        try:
            url = await_url(process, log, trusted)
            yield Server(url, settings["admin_key"], process, log, trusted)
            process.terminate()
            assert process.wait(SECONDS_MAX) in (0, -signal.SIGKILL), log.read_text()
        except BaseException:
            print(log.read_text())  # pytest shows it beside the failure
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(SECONDS_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def start(
    module: str, environment: dict[str, str], log: Path, before: Sequence[str | Path]
) -> ServerProcess:
    """Start the server; a command before it makes it a program of its own."""
    if not before:
        return PreloadedProcess(module, ["serve"], environment, log, log)
    with log.open("wb") as output:
        return subprocess.Popen(
            [*before, sys.executable, "-m", module, "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parent.parent,
        )


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """This process's environment, with these settings and the suite's strategy and no others."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOLDFAST_") or name in STRATEGY
    }
    given = {
        f"HOLDFAST_{name.upper()}": str(value)
        for name, value in settings.items()
        if value is not None
    }
    return {**inherited, "PYTHONUNBUFFERED": "1", **given}


def await_url(process: ServerProcess, log: Path, trusted: ssl.SSLContext | None = None) -> str:
    """Return the address that the server announces, when it is ready.

    A machine that is busy with other tests may make one look at the database time out.
    """
    give_up_at = time.monotonic() + SECONDS_MAX
    while time.monotonic() < give_up_at and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("Holdfast listens on "):
                url = line.split()[-1]
                answer = httpx.get(
                    f"{url}/health/ready", timeout=SECONDS_MAX, verify=trusted or True
                )
                if answer.status_code == 200:
                    return url
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
