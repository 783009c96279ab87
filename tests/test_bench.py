"""The parts of the benchmarks: a filled database is sound, and a summary has the right figures."""

import os

import asyncpg
import pytest

from bench.endurance import Sample, rows, summarize
from bench.filling import UNITS, fill, sizes
from bench.load import Measured
from bench.observation import StockTable, find_workers, observe_stock, resident_bytes
from tests.conftest import assert_books_balance
from tests.roles import as_superuser
from tests.server import running_server

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
    """Ignore the progress."""


async def ask(url, select):
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(select)]
    finally:
        await connection.close()


@pytest.mark.parametrize(("skus", "reservations"), [(7, 30), (30, 7), (5, 0)])
async def test_a_filled_database_has_balanced_books(database_url, skus, reservations):
    await fill(as_superuser(database_url), skus, reservations, ignore)
    await assert_books_balance(database_url)
    stored = await ask(database_url, STORED)
    assert [row[0] for row in stored] == [f"S{number}" for number in range(1, skus + 1)]
    assert sum(row[3] for row in stored) == reservations
    assert all(version == 1 + reserved for _, _, version, reserved in stored)


async def test_filling_in_several_parts_makes_the_same_rows(database_url, monkeypatch):
    monkeypatch.setattr("bench.filling.ROWS_AT_ONCE", 4)
    await fill(as_superuser(database_url), 7, 30, ignore)
    assert [row[3] for row in await ask(database_url, STORED)] == [5, 5, 4, 4, 4, 4, 4]


async def test_a_filled_database_has_every_index_and_constraint_again(database_url):
    before = await ask(database_url, DEFINITIONS)
    await fill(as_superuser(database_url), 7, 30, ignore)
    assert sorted(await ask(database_url, DEFINITIONS)) == sorted(before)
    assert {name for name, _ in before} > {"stock_pkey", "movement_step_key"}


async def test_the_sizes_are_those_of_all_tables_that_were_filled(database_url):
    await fill(as_superuser(database_url), 7, 30, ignore)
    rows = {row["table"]: row["rows"] for row in await sizes(database_url)}
    assert rows == {"stock": 7, "reservation": 30, "reservation_line": 30, "movement": 37}


async def test_the_filled_rows_equal_the_rows_that_the_service_would_store(service):
    """A repeated request is a replay, and the next movement of a stock row continues its ledger."""
    await fill(as_superuser(service.url), 7, 30, ignore)
    service.client.headers.update(await service.key("admin", "admin"))
    repeated = await service.reserve("stored-30", ("S2", 1))
    assert (repeated.status_code, repeated.headers["idempotency-replayed"]) == (200, "true")
    assert (await service.reserve("new", ("S2", 1))).status_code == 201
    assert await service.on_hand("S2") == (UNITS - 6, 0)


def samples_of(rates, *, memory, seconds=10, refused=0):
    """A run: the rate of each slice, and the memory of the worker after each slice in bytes."""
    made, answered = [], 0
    for number, (rate, memory_bytes) in enumerate(zip(rates, memory, strict=True), start=1):
        measured = Measured(rate, 1.0, 2.0, refused=refused, failed=1, answered=rate * seconds)
        answered += measured.answered
        stock = StockTable(1000 * number, 999 * number, 5, 1, 8192)
        made.append(Sample(answered, measured, memory_bytes, stock))
    return made


def test_the_last_minute_is_compared_with_the_first():
    rates = [1000] * 5 + [2000] + [50] * 8 + [1400] * 6
    summary = summarize(samples_of(rates, memory=[1] * 20), seconds=10)
    assert summary.last_to_first == pytest.approx(1400 * 6 / 7000)


def test_the_halves_of_a_short_run_are_compared():
    summary = summarize(samples_of([100, 7, 50], memory=[1] * 3), seconds=10)
    assert summary.last_to_first == pytest.approx(0.5)


def test_memory_is_measured_after_a_million_requests():
    memory = [1_000_000, 2_000_000, 3_000_000, 4_000_000]
    summary = summarize(samples_of([50_000] * 4, memory=memory), seconds=10)
    assert (summary.answered, summary.memory_bytes) == (1_000_000, 2_000_000)


def test_memory_is_measured_at_the_end_of_a_run_with_fewer_requests():
    summary = summarize(samples_of([100] * 4, memory=[1, 2, 3, 4]), seconds=10)
    assert (summary.answered, summary.memory_bytes) == (4000, 4)


def test_growth_is_measured_from_the_first_hundred_thousand_requests_on():
    memory = [10, 1_000_000, 1_500_000, 3_000_000]
    summary = summarize(samples_of([5_000] * 4, memory=memory), seconds=10)
    assert summary.grown_bytes == 2_000_000
    assert summary.grown_per_request == pytest.approx(20)


def test_updates_and_unwanted_answers_are_counted_over_the_whole_run():
    summary = summarize(samples_of([100] * 4, memory=[1] * 4, refused=2), seconds=10)
    assert (summary.hot_share, summary.unwanted) == (0.999, 12)


def test_the_table_of_a_long_run_ends_with_its_last_slice():
    table = rows(samples_of([100] * 61, memory=[1] * 61), 10)
    assert len(table) <= 30
    assert table[-1][:2] == ["610", "61,000"]


async def test_the_stock_table_is_observed(database_url):
    found = await observe_stock(database_url)
    assert found.updates == found.hot_updates == 0


def test_the_workers_are_found_without_the_private_postgresql():
    with running_server(None, workers=2) as server:
        assert len(find_workers(server.process.pid)) == 2


def test_resident_memory_is_in_bytes():
    assert 10_000_000 < resident_bytes(os.getpid()) < 10_000_000_000
