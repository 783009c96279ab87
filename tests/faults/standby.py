"""A streaming standby of a primary that the tests start, and its promotion."""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from db.embedded.installation import SETTINGS, find_binaries
from db.embedded.postmaster import Account, choose_account, find_processes, launch, run
from db.embedded.roles import Role
from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.session.database import Database
from tests.brokers import free_port
from tests.faults.processes import family_of, frozen, kill_for_good
from tests.roles import as_role, as_superuser, known

SECONDS_MAX = 15.0
FAST = {"fsync": "off", "full_page_writes": "off"}


@dataclass
class Standby:
    """A standby that streams from its primary while both run."""

    copy: Path
    binaries: Path
    account: Account
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = (
            "--listen_addresses=127.0.0.1",
            "--unix_socket_directories=",
            f"--port={self.port}",
            f"--max_connections={SETTINGS['max_connections']}",  # at least as many as the primary
        )
        command = [self.binaries / "postgres", *settings]
        with self.copy.with_suffix(".log").open("ab") as log:
            self.process = launch(command, self.account, self.copy, output=log)

    def kill(self) -> None:
        if self.process is not None:
            kill_for_good(family_of(self.process.pid))
            self.process.wait(SECONDS_MAX)


@dataclass
class Pair:
    """A migrated primary and its standby, which is asynchronous at first.

    The addresses are for the role that serves.
    """

    url: str
    standby_url: str
    cluster: Path
    standby: Standby

    @property
    def both(self) -> str:
        """An address that names both servers, for a service that must follow a failover."""
        here, there = urlsplit(self.url), urlsplit(self.standby_url)
        return here._replace(netloc=f"{here.netloc},127.0.0.1:{there.port}").geturl()

    def kill_primary(self) -> None:
        kill_for_good(find_processes(self.cluster))

    def frozen_standby(self) -> AbstractContextManager[None]:
        """Make the standby receive and confirm nothing until the block ends."""
        assert self.standby.process is not None
        return frozen(family_of(self.standby.process.pid))

    def frozen_primary(self) -> AbstractContextManager[None]:
        """Make the primary accept connections without an answer until the block ends."""
        return frozen(find_processes(self.cluster))

    async def synchronous(self) -> None:
        """Make every COMMIT wait for the standby from now on."""
        connection = await asyncpg.connect(as_superuser(self.url))
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        await _until(self.url, "SELECT sync_state = 'sync' FROM pg_stat_replication")
        await _until(self.url, "SELECT current_setting('synchronous_standby_names') = '*'")

    async def caught_up(self) -> None:
        """Return when the standby has everything that the primary has now."""
        caught_up = "SELECT replay_lsn >= pg_current_wal_insert_lsn() FROM pg_stat_replication"
        await _until(self.url, caught_up)

    async def promote(self) -> None:
        """Make the standby a primary."""
        await _until(self.standby_url, "SELECT pg_promote(true, 15)")


@asynccontextmanager
async def running_pair() -> AsyncIterator[Pair]:
    """Start a primary and a standby; both are removed when the block ends."""
    with (
        open_directory() as directory,
        EmbeddedPostgres(directory / "primary", settings=FAST) as primary,
        known(primary.addresses),
        _standby_of(primary.addresses.superuser, directory) as standby,
        known(replace(primary.addresses, port=standby.port)),
    ):
        url = primary.addresses.serving
        await _migrate(url)
        await _until(url, "SELECT state = 'streaming' FROM pg_stat_replication")
        standby_url = replace(primary.addresses, port=standby.port).serving
        yield Pair(url, standby_url, directory / "primary" / "postgresql", standby)


async def _migrate(url: str) -> None:
    database = Database(url, pool_size=1)
    await upgrade(database, as_role(url, Role.MIGRATING))
    await database.close()


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that PostgreSQL's programs can reach as any user."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def _standby_of(url: str, directory: Path) -> Iterator[Standby]:
    account = choose_account(directory / "primary" / "postgresql")
    binaries = find_binaries(None, directory, account)
    standby = Standby(directory / "standby", binaries, account, free_port())
    standby.copy.mkdir(mode=0o700)
    account.own(standby.copy)
    run([binaries / "pg_basebackup", "-d", url, "-D", standby.copy, "-R", "-c", "fast"], account)
    standby.start()
    try:
        yield standby
    finally:
        standby.kill()


async def _until(url: str, question: str) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            with suppress(OSError, asyncpg.CannotConnectNowError):
                if await _ask(url, question):
                    return
            await asyncio.sleep(0.02)


async def _ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(as_superuser(url))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()
