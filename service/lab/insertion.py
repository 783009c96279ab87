"""The experiment on select-then-insert: look for a key, and insert it if it is missing.

It runs on a scratch table, with and without a unique index or SERIALIZABLE.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from db.lab.scratch import InsertRefused, count_duplicates, insert_once, make_table, scratch_pool

KEYS = 40


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
class InsertionResult:
    """The result of inserting `KEYS` keys, when every client inserts each of them."""

    way: str
    crowd: str
    duplicates: int
    """The number of surplus rows."""
    errors: int
    """Inserts that the database refused; the caller must handle them."""
    seconds: float


CROWDS = {
    "one client": (1, True),
    "16 clients, each in its own order": (16, False),
    "16 clients, the same key at once": (16, True),
}
"""The number of clients, and whether all of them insert the same key at the same time."""


async def insert_everywhere(url: str, seed: int) -> list[InsertionResult]:
    """Run every way with every crowd."""
    clients_max = max(clients for clients, _ in CROWDS.values())
    async with scratch_pool(url, clients_max) as pool:
        return [await _insert(pool, way, crowd, seed) for crowd in CROWDS for way in WAYS]


async def _insert(pool: Any, way: Way, crowd: str, seed: int) -> InsertionResult:
    await make_table(pool, is_unique=way.is_unique)
    started = time.monotonic()
    errors = 0
    for orders in _rounds(crowd, seed):
        clients = (_insert_as(pool, way, keys, client) for client, keys in enumerate(orders))
        errors += sum(await asyncio.gather(*clients))
    seconds = time.monotonic() - started
    return InsertionResult(way.name, crowd, await count_duplicates(pool), errors, seconds)


def _rounds(crowd: str, seed: int) -> list[list[Sequence[int]]]:
    """Return for each round the keys of each client, in order; a round ends for all together."""
    clients, is_at_once = CROWDS[crowd]
    if is_at_once:
        return [[[key]] * clients for key in range(KEYS)]
    return [
        [
            random.Random(f"{seed}/{client}").sample(range(KEYS), KEYS)  # noqa: S311 - repeatable
            for client in range(clients)
        ]
    ]


async def _insert_as(pool: Any, way: Way, keys: Sequence[int], client: int) -> int:
    """Insert keys as one client; return the number of inserts that the database refused."""
    errors = 0
    async with pool.acquire() as connection:
        for key in keys:
            try:
                await insert_once(connection, key, client, looks=way.looks, isolation=way.isolation)
            except InsertRefused:
                errors += 1
    return errors
