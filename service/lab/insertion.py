"""The experiment on select-then-insert: look whether a key is there, insert it if not.

On a scratch table of the lab's own, with and without what is to make it safe.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

KEYS = 40

TABLE = """
    DROP TABLE IF EXISTS scratch_once;
    CREATE TABLE scratch_once (key int NOT NULL, client int NOT NULL);
"""
INDEX = "CREATE UNIQUE INDEX scratch_once_key ON scratch_once (key)"
LOOK = "SELECT 1 FROM scratch_once WHERE key = $1"
INSERT = "INSERT INTO scratch_once VALUES ($1, $2)"
DUPLICATES = "SELECT count(*) - count(DISTINCT key) FROM scratch_once"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to insert a key once."""

    name: str
    looks: bool = True
    is_unique: bool = False
    isolation: str = "read_committed"


WAYS = (
    Way("select, then insert"),
    Way("the same, SERIALIZABLE", isolation="serializable"),
    Way("the same, with a unique index", is_unique=True),
    Way("unique index, ON CONFLICT DO NOTHING", looks=False, is_unique=True),
)


@dataclass(slots=True)
class Insertion:
    """What became of inserting `KEYS` keys, each of them by every client."""

    way: str
    crowd: str
    duplicates: int
    """Rows too many."""
    errors: int
    """Inserts that the database refused, which the caller must know how to handle."""
    seconds: float


CROWDS = {
    "one client": (1, True),
    "16 clients, each in its own order": (16, False),
    "16 clients, the same key at once": (16, True),
}
"""How many clients, and whether all of them want the same key at the same time."""


async def insert_everywhere(url: str, seed: int) -> list[Insertion]:
    """Run every way with every crowd."""
    clients_max = max(clients for clients, _ in CROWDS.values())
    pool = await asyncpg.create_pool(url, min_size=clients_max, max_size=clients_max)
    try:
        return [await _insert(pool, way, crowd, seed) for crowd in CROWDS for way in WAYS]
    finally:
        await pool.close()


async def _insert(pool: Any, way: Way, crowd: str, seed: int) -> Insertion:
    clients, is_at_once = CROWDS[crowd]
    await pool.execute(TABLE)
    if way.is_unique:
        await pool.execute(INDEX)
    started = time.monotonic()
    if is_at_once:
        errors = 0
        for key in range(KEYS):
            errors += sum(
                await asyncio.gather(*(_once(pool, way, [key], each) for each in range(clients)))
            )
    else:
        orders = [
            random.Random(f"{seed}/{each}").sample(range(KEYS), KEYS)  # noqa: S311 - repeatable
            for each in range(clients)
        ]
        errors = sum(
            await asyncio.gather(
                *(_once(pool, way, order, each) for each, order in enumerate(orders))
            )
        )
    seconds = time.monotonic() - started
    return Insertion(way.name, crowd, await pool.fetchval(DUPLICATES), errors, seconds)


async def _once(pool: Any, way: Way, keys: Sequence[int], client: int) -> int:
    """Insert keys as one client; return how often the database refused."""
    errors = 0
    async with pool.acquire() as connection:
        for key in keys:
            try:
                async with connection.transaction(isolation=way.isolation):
                    await _insert_one(connection, way, key, client)
            except (asyncpg.UniqueViolationError, asyncpg.SerializationError):
                errors += 1
    return errors


async def _insert_one(connection: Any, way: Way, key: int, client: int) -> None:
    if not way.looks:
        await connection.execute(f"{INSERT} ON CONFLICT DO NOTHING", key, client)
    elif await connection.fetchval(LOOK, key) is None:
        await connection.execute(INSERT, key, client)
