"""The experiment on select-then-insert: look whether a key is there, insert it if not.

On a scratch table, with and without what is to make it safe.
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
    async with scratch_pool(url, clients_max) as pool:
        return [await _insert(pool, way, crowd, seed) for crowd in CROWDS for way in WAYS]


async def _insert(pool: Any, way: Way, crowd: str, seed: int) -> Insertion:
    await make_table(pool, is_unique=way.is_unique)
    started = time.monotonic()
    errors = 0
    for orders in _rounds(crowd, seed):
        clients = (_insert_as(pool, way, keys, client) for client, keys in enumerate(orders))
        errors += sum(await asyncio.gather(*clients))
    seconds = time.monotonic() - started
    return Insertion(way.name, crowd, await count_duplicates(pool), errors, seconds)


def _rounds(crowd: str, seed: int) -> list[list[Sequence[int]]]:
    """The keys that each client wants, in order, round by round: all wait for a round's end."""
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
    """Insert keys as one client; return how often the database refused."""
    errors = 0
    async with pool.acquire() as connection:
        for key in keys:
            try:
                await insert_once(connection, key, client, looks=way.looks, isolation=way.isolation)
            except InsertRefused:
                errors += 1
    return errors
