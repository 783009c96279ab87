"""The measurements' own parts: a filled database is a sound one, a summary says what was measured."""

import asyncpg
import pytest

from bench.filling import UNITS, fill, sizes
from tests.conftest import assert_books_balance

DEFINITIONS = """
    SELECT indexname AS name, indexdef AS definition FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
"""
STORED = """
    SELECT sku, available, version,
           (SELECT count(*) FROM reservation_line AS line WHERE line.sku = stock.sku) AS reserved
    FROM stock ORDER BY length(sku), sku
"""


def ignore(step, done, total):
    """Nobody watches the progress."""


async def ask(url, select):
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(select)]
    finally:
        await connection.close()


@pytest.mark.parametrize(("skus", "reservations"), [(7, 30), (30, 7), (5, 0)])
async def test_a_filled_database_has_balanced_books(database_url, skus, reservations):
    await fill(database_url, skus, reservations, ignore)
    await assert_books_balance(database_url)
    stored = await ask(database_url, STORED)
    assert [row[0] for row in stored] == [f"S{number}" for number in range(1, skus + 1)]
    assert sum(row[3] for row in stored) == reservations
    assert all(version == 1 + reserved for _, _, version, reserved in stored)


async def test_filling_in_several_parts_makes_the_same_rows(database_url, monkeypatch):
    monkeypatch.setattr("bench.filling.ROWS_AT_ONCE", 4)
    await fill(database_url, 7, 30, ignore)
    assert [row[3] for row in await ask(database_url, STORED)] == [5, 5, 4, 4, 4, 4, 4]


async def test_a_filled_database_has_every_index_and_constraint_again(database_url):
    before = await ask(database_url, DEFINITIONS)
    await fill(database_url, 7, 30, ignore)
    assert sorted(await ask(database_url, DEFINITIONS)) == sorted(before)
    assert {name for name, _ in before} > {"stock_pkey", "movement_step_key"}


async def test_the_sizes_are_those_of_all_tables_that_were_filled(database_url):
    await fill(database_url, 7, 30, ignore)
    rows = {row["table"]: row["rows"] for row in await sizes(database_url)}
    assert rows == {"stock": 7, "reservation": 30, "reservation_line": 30, "movement": 37}


async def test_what_is_stored_is_what_the_service_would_have_stored(service):
    """Its own caller's repetition is a replay, and a stock row's next movement follows."""
    await fill(service.url, 7, 30, ignore)
    service.client.headers.update(await service.key("admin", "admin"))
    repeated = await service.reserve("stored-30", ("S2", 1))
    assert (repeated.status_code, repeated.headers["idempotency-replayed"]) == (200, "true")
    assert (await service.reserve("new", ("S2", 1))).status_code == 201
    assert await service.on_hand("S2") == (UNITS - 6, 0)
