"""Temporary databases on a given server or a private one, dropped at the end."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.session.address import connection_arguments, read_address
from db.session.database import Database, DatabaseError


@contextmanager
def server(database_url: str | None, pg_bin: Path | None = None) -> Iterator[str]:
    """Yield the address of the given server, or of a private, durable one."""
    if database_url is not None:
        yield database_url
        return
    with (
        TemporaryDirectory(prefix="holdfast-lab-") as directory,
        EmbeddedPostgres(Path(directory), pg_bin) as postgres,
    ):
        yield postgres.url


class Sandbox:
    """Databases on one server, each a copy of a migrated one, all dropped at the end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._address = read_address(url)
        self._template = f"holdfast_lab_{secrets.token_hex(6)}"
        self._count = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Sandbox"]:
        """Create the migrated database that all others are copied from."""
        await self._run(f"CREATE DATABASE {self._template}")
        try:
            database = Database(self._address.named(self._template), pool_size=1)
            try:
                await upgrade(database)
            finally:
                await database.close()
            yield self
        finally:
            await self._run(f"DROP DATABASE IF EXISTS {self._template} WITH (FORCE)")

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Yield the address of an empty, migrated database."""
        self._count += 1
        name = f"{self._template}_{self._count}"
        await self._run(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        try:
            yield self._address.named(name)
        finally:
            await self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(**connection_arguments(self._url))
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError as error:
            raise DatabaseError(
                f"the role of the lab's server may not create databases ({error}): name a role that"
                " may with --database-url, or omit the option to use a private server"
            ) from None
        finally:
            await connection.close()
