"""A separate session that watches the services of an experiment and disturbs them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

from db.session.address import connection_arguments

Observer: TypeAlias = asyncpg.Connection
"""A connection that is independent of the services."""

LOCK_WAITS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast'
        AND wait_event_type = 'Lock'
"""
WRITER_ENDED = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast'
        AND backend_xid IS NOT NULL
    LIMIT 1
"""
SESSIONS_ENDED = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast'
"""
ROWS_LOCKED = "SELECT FROM stock WHERE sku = $1 FOR UPDATE"
MOVES = """
    SELECT sku, version, kind, available_delta, reservation_id FROM movement
    WHERE reservation_id IS NOT NULL AND available_delta <> 0
    ORDER BY sku, version
"""
AVAILABLE = "SELECT sku, available FROM stock"


class Move(NamedTuple):
    """One movement of a reservation: the change of a SKU's available units at `version`."""

    version: int
    kind: str
    reservation: UUID
    delta: int


@asynccontextmanager
async def observing(url: str) -> AsyncIterator[Observer]:
    """Yield a session in the database of running services."""
    connection = await asyncpg.connect(
        **connection_arguments(url), server_settings={"application_name": "holdfast-lab"}
    )
    try:
        yield connection
    finally:
        await connection.close()


async def server_version(observer: Observer) -> str:
    """Return the server's name and version."""
    version = await observer.fetchval("SELECT version()")
    return str(version).split(" on ", maxsplit=1)[0]


async def lock_waits(observer: Observer) -> int:
    """Return how many sessions of the services wait for a lock."""
    return int(await observer.fetchval(LOCK_WAITS))


async def kill_writer(observer: Observer) -> None:
    """End a session whose open transaction has written."""
    await observer.fetch(WRITER_ENDED)


async def drop_connections(observer: Observer) -> None:
    """End every session of the services."""
    await observer.fetch(SESSIONS_ENDED)


@asynccontextmanager
async def locked_rows(observer: Observer, sku: str) -> AsyncIterator[None]:
    """Hold the locks of a SKU's rows until the block ends."""
    async with observer.transaction():
        await observer.execute(ROWS_LOCKED, sku)
        yield


async def moves(observer: Observer) -> dict[str, list[Move]]:
    """Return the movements of reservations by SKU, in the order of the ledger."""
    found: dict[str, list[Move]] = {}
    for sku, version, kind, delta, reservation in await observer.fetch(MOVES):
        id_ = UUID(bytes=reservation.bytes)
        found.setdefault(sku, []).append(Move(version, kind, id_, delta))
    return found


async def left(observer: Observer) -> dict[str, int]:
    """Return the available units of each SKU."""
    return {row["sku"]: row["available"] for row in await observer.fetch(AVAILABLE)}
