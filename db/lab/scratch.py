"""A scratch table and the ways to insert a key into it once, which an experiment compares."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from db.session.address import connection_arguments

TABLE = """
    DROP TABLE IF EXISTS scratch_once;
    CREATE TABLE scratch_once (key int NOT NULL, client int NOT NULL);
"""
INDEX = "CREATE UNIQUE INDEX scratch_once_key ON scratch_once (key)"
LOOK = "SELECT 1 FROM scratch_once WHERE key = $1"
INSERT = "INSERT INTO scratch_once VALUES ($1, $2)"
INSERT_IF_NEW = f"{INSERT} ON CONFLICT DO NOTHING"
DUPLICATES = "SELECT count(*) - count(DISTINCT key) FROM scratch_once"

REFUSALS = (asyncpg.UniqueViolationError, asyncpg.SerializationError)


class InsertRefused(Exception):
    """The database refused an insert; nothing was written."""


@asynccontextmanager
async def scratch_pool(url: str, clients_max: int) -> AsyncIterator[Any]:
    """Yield a pool with an open connection for each client."""
    pool = await asyncpg.create_pool(
        **connection_arguments(url), min_size=clients_max, max_size=clients_max
    )
    try:
        yield pool
    finally:
        await pool.close()


async def make_table(pool: Any, *, is_unique: bool) -> None:
    """Create the table again, with or without a unique index on its key."""
    await pool.execute(TABLE)
    if is_unique:
        await pool.execute(INDEX)


async def insert_once(
    connection: Any, key: int, client: int, *, looks: bool, isolation: str
) -> None:
    """Insert a key unless it exists, in a separate transaction.

    With `looks` the key is selected first; without it the unique index detects a duplicate.

    Raises `InsertRefused`.
    """
    try:
        async with connection.transaction(isolation=isolation):
            if not looks:
                await connection.execute(INSERT_IF_NEW, key, client)
            elif await connection.fetchval(LOOK, key) is None:
                await connection.execute(INSERT, key, client)
    except REFUSALS as error:
        raise InsertRefused from error


async def count_duplicates(pool: Any) -> int:
    """Return the number of surplus rows."""
    return int(await pool.fetchval(DUPLICATES))
