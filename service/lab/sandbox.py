"""A database that nobody minds: made for an experiment on a given server, or on a private one.

All SQL that the lab runs behind the services' backs is here.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import asyncpg
import sqlalchemy

from db.audit import audit
from db.database import Database
from db.embedded import EmbeddedPostgres
from db.migrate import upgrade
from db.strategies.guard import Guard
from service.commands import SetStock
from service.lab.experiment import LOCATION, Experiment
from service.lab.history import Move
from service.ledger import Ledger

AUDIT_SECONDS_MAX = 120
STOCK_BATCH = 500

# What a session of a service waits for while it wants a lock that another one has.
LOCK_WAITS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast'
        AND wait_event_type = 'Lock'
"""
VICTIM = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast'
        AND backend_xid IS NOT NULL
    LIMIT 1
"""
EVERYBODY = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast'
"""
MOVES = """
    SELECT sku, version, kind, available_delta, reservation_id FROM movement
    WHERE reservation_id IS NOT NULL AND available_delta <> 0
    ORDER BY sku, version
"""


@contextmanager
def server(database_url: str | None, pg_bin: Path | None = None) -> Iterator[str]:
    """Yield a server's address: that of the given one, or of a private, durable one."""
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
        self._url = sqlalchemy.make_url(url).set(drivername="postgresql")
        self._template = f"holdfast_lab_{secrets.token_hex(6)}"
        self._count = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Sandbox"]:
        """Make the migrated database that the others are copied from."""
        await self._run(f"CREATE DATABASE {self._template}")
        try:
            database = Database(self._address(self._template), pool_size=1)
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
            yield self._address(name)
        finally:
            await self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _address(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url.render_as_string(hide_password=False))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def fill(url: str, experiment: Experiment) -> None:
    """Put the experiment's stock on the shelves, through the ledger as anybody would."""
    database = Database(url, pool_size=1)
    try:
        names = experiment.sku_names
        ledger = Ledger(database, Guard())
        for start in range(0, len(names), STOCK_BATCH):
            await ledger.execute(
                [
                    SetStock(name, LOCATION, experiment.stock, None, None, None)
                    for name in names[start : start + STOCK_BATCH]
                ]
            )
    finally:
        await database.close()


class Observer:
    """A session of the lab's own beside the services: watches, disturbs, and reads the ledger."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """Yield a connection that the services know nothing of."""
        connection = await asyncpg.connect(
            self._url, server_settings={"application_name": "holdfast-lab"}
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def moves(self) -> dict[str, list[Move]]:
        """Return what reservations did to each SKU, in the ledger's order."""
        found: dict[str, list[Move]] = {}
        async with self.session() as connection:
            for sku, version, kind, delta, reservation in await connection.fetch(MOVES):
                id_ = UUID(bytes=reservation.bytes)
                found.setdefault(sku, []).append(Move(version, kind, id_, delta))
        return found

    async def left(self) -> dict[str, int]:
        """Return what each SKU has available."""
        async with self.session() as connection:
            return dict(await connection.fetch("SELECT sku, available FROM stock"))

    async def drift(self) -> list[str]:
        """Return what the audit of the books found, a sentence for each finding."""
        database = Database(self._url, pool_size=1)
        try:
            found = await audit(database, seconds_max=AUDIT_SECONDS_MAX)
        finally:
            await database.close()
        return [
            f"{drift['rule']}: {drift.get('sku', '')} {drift.get('reservation_id', '')}"
            f" expected {drift['expected']}, found {drift['found']}"
            for drift in found.drift
        ]


async def lock_waits(connection: Any) -> int:
    """Return how many sessions of the services wait for a lock right now."""
    return int(await connection.fetchval(LOCK_WAITS))


async def kill_writer(connection: Any) -> None:
    """End a session in the middle of a transaction that has written."""
    await connection.fetch(VICTIM)


async def drop_connections(connection: Any) -> None:
    """End every session of the services."""
    await connection.fetch(EVERYBODY)


@asynccontextmanager
async def paused_holder(connection: Any, sku: str) -> AsyncIterator[None]:
    """Hold a SKU's row lock for as long as the block takes, as a process that was frozen would."""
    async with connection.transaction():
        await connection.execute("SELECT FROM stock WHERE sku = $1 FOR UPDATE", sku)
        yield
