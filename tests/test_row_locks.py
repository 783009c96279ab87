"""Each lock and each ORDER BY in the SQL has a test and a mutant without it that fails the test."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.ledger import apply as writes
from db.ledger import load as reads
from db.ledger.answers import SELECTS
from db.ledger.load import key_parameters, load, lock, locked_elsewhere
from db.rows import Line, Refund, Wanted, Writes
from db.session.configuration import Timeouts
from db.session.database import Database, Transaction
from db.session.failures import sqlstate
from db.strategies import advisory
from service.domain.errors import InternalError
from service.domain.identifiers import reservation_id
from tests.conftest import fresh_database
from tests.sessions import session
from tests.test_guards import refund, reserve, without
from tests.test_locks import (
    holding,
    keeps_b_free,
    put,
    run,
    waits_for_a_lock,
)

SMALL, LARGE = sorted([reservation_id("us", "1"), reservation_id("us", "2")])
TWO = [put("A"), put("B"), reserve("1", 60, A=1, B=1), reserve("2", 60, A=1, B=1)]
BOTH = Wanted(reservations={SMALL, LARGE}, stock={("A", "main"), ("B", "main")})
PINNED = Writes(stock_pinned=[("A", "main", 1), ("B", "main", 1)])

Mutant = Callable[[pytest.MonkeyPatch], None]


def statement(name: str, before: str, after: str) -> Mutant:
    """Return a mutant: in a statement of db/ledger/load.py, `after` replaces `before`."""

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(reads, name).text
        assert before in original
        monkeypatch.setattr(reads, name, text(original.replace(before, after)))

    return mutate


async def large_is_free(database: Database) -> bool:
    """Return whether a session that waits for the smaller id leaves the larger one unlocked."""
    held = f"SELECT 1 FROM reservation WHERE id = '{SMALL}' FOR UPDATE"
    free = text("SELECT 1 FROM reservation WHERE id = :id FOR UPDATE SKIP LOCKED")
    async with session(database) as waiting, database.engine.connect() as other:
        async with holding(database, held):
            task = asyncio.create_task(lock(waiting.connection, BOTH))
            await waits_for_a_lock(database)
            is_free = await other.scalar(free, {"id": LARGE}) is not None
        await task
    return is_free


async def test_reservations_are_locked_in_the_order_of_their_ids(database):
    await run(database, *TWO)
    assert await large_is_free(database)


async def test_without_order_by_reservations_would_be_locked_in_another_order(
    database, monkeypatch
):
    await run(database, *TWO)
    statement("LOCK_RESERVATIONS", "BY reservation.id", "BY reservation.id DESC")(monkeypatch)
    assert not await large_is_free(database)


async def pin_both(transaction: Transaction) -> None:
    await writes.apply(transaction, PINNED)


async def test_pinned_rows_are_locked_in_the_order_of_their_keys(database):
    await run(database, put("B"), put("A"))
    assert await keeps_b_free(database, pin_both)


async def test_without_order_by_pinned_rows_would_be_locked_in_another_order(database, monkeypatch):
    await run(database, put("B"), put("A"))
    without("stock_pinned", "stock.sku, stock.location", "stock.sku DESC")(monkeypatch)
    assert not await keeps_b_free(database, pin_both)


async def lock_all(transaction: Transaction) -> None:
    await lock(transaction.connection, BOTH)


async def is_locked(database: Database, work: Callable[[Transaction], Any], table: str) -> bool:
    """Return whether the work prevents other sessions from locking any row of the table."""
    free = text(f"SELECT count(*) FROM (SELECT FROM {table} FOR NO KEY UPDATE SKIP LOCKED) AS row")
    async with session(database) as transaction, database.engine.connect() as other:
        await work(transaction)
        return not await other.scalar(free)


LOCKS = [
    (lock_all, "reservation", statement("LOCK_RESERVATIONS", "FOR UPDATE OF reservation", "")),
    (lock_all, "stock", statement("LOCK_STOCK", "FOR UPDATE OF stock", "")),
    (pin_both, "stock", without("stock_pinned", "FOR NO KEY UPDATE OF stock", "")),
]


@pytest.mark.parametrize(("work", "table", "mutant"), LOCKS)
async def test_rows_that_a_verdict_relies_on_stay_locked(
    database, monkeypatch, work, table, mutant
):
    await run(database, *(TWO if work is lock_all else TWO[:2]))
    assert await is_locked(database, work, table)
    mutant(monkeypatch)
    assert not await is_locked(database, work, table)


HOLD_BOTH = "SELECT 1 FROM reservation FOR UPDATE"


async def test_a_reservation_that_is_locked_elsewhere_is_found_without_waiting(database):
    await run(database, *TWO)
    async with holding(database, HOLD_BOTH), database.engine.connect() as connection:
        snapshot = await load(connection, BOTH)
        assert await locked_elsewhere(connection, snapshot) == {SMALL, LARGE}


async def test_without_skip_locked_the_look_up_of_reservations_would_wait(
    database_url, database, monkeypatch
):
    await run(database, *TWO)
    statement("FREE_RESERVATIONS", "SKIP LOCKED", "")(monkeypatch)
    impatient = Database(database_url, pool_size=1, timeouts=Timeouts(lock=0.05))
    async with holding(database, HOLD_BOTH), impatient.engine.connect() as connection:
        snapshot = await load(connection, BOTH)
        with pytest.raises(DBAPIError) as error:
            await locked_elsewhere(connection, snapshot)
        assert sqlstate(error.value) == "55P03"
    await impatient.close()


async def test_without_order_by_movements_would_get_the_versions_of_other_rows(
    postgres_url, monkeypatch
):
    monkeypatch.setattr(writes, "VERSIONS", writes.VERSIONS.replace("index", "index DESC"))
    monkeypatch.setattr(writes, "_STATEMENTS", {})
    async with fresh_database(postgres_url) as url:
        database = Database(url, pool_size=2)
        await run(database, put("A"), put("B"), reserve("1", A=1))
        with pytest.raises(InternalError):
            await run(database, reserve("2", A=1, B=1))
        await database.close()


async def lines_of(database: Database) -> dict[Any, tuple[Line, ...]]:
    async with database.engine.connect() as connection:
        snapshot = await load(connection, BOTH)
        return {id_: row.lines for id_, row in snapshot.reservations.items()}


async def test_without_order_by_a_reservation_would_be_read_with_some_of_its_lines(
    database, monkeypatch
):
    await run(database, *TWO)
    assert {len(lines) for lines in (await lines_of(database)).values()} == {2}
    by_sku = reads.ROWS["lines"].replace("BY reservation_id, sku", "BY sku")
    assert by_sku != reads.ROWS["lines"]
    monkeypatch.setitem(reads.ROWS, "lines", by_sku)
    monkeypatch.setattr(reads, "_STATEMENTS", {})
    assert {len(lines) for lines in (await lines_of(database)).values()} == {1}


async def test_without_order_by_a_refund_would_be_read_with_some_of_its_lines(
    database, monkeypatch
):
    await run(database, put("A"), put("B"))
    for seq in "12":
        await run(database, reserve(seq, A=1, B=1), refund(seq, seq))
    assert await widths(database) == {2}
    by_sku = SELECTS[Refund]["refund_lines"].replace("BY refund_line.refund_id, sku", "BY sku")
    assert by_sku != SELECTS[Refund]["refund_lines"]
    monkeypatch.setitem(SELECTS[Refund], "refund_lines", by_sku)
    monkeypatch.setattr(reads, "_STATEMENTS", {})
    assert await widths(database) == {1}


async def widths(database: Database) -> set[int]:
    """Return the numbers of lines with which the two refunds are read."""
    async with database.engine.connect() as connection:
        snapshot = await load(connection, Wanted(answers={Refund: {("us", "1"), ("us", "2")}}))
        return {len(row.lines) for row in snapshot.answers[Refund].values()}


async def highest_is_free(database: Database) -> bool:
    """Return whether a session that waits for the lowest lock leaves the highest one free."""
    wanted = Wanted(stock={(sku, "main") for sku in "ABCD"})
    async with session(database) as waiting, database.engine.connect() as other:
        hashes = sorted(await other.scalars(HASHES))
        async with holding(database, f"SELECT pg_advisory_xact_lock({hashes[0]})"):
            locking = waiting.connection.execute(advisory.LOCK, key_parameters(wanted))
            task = asyncio.create_task(locking)
            await waits_for_a_lock(database)
            is_free = await other.scalar(TRY, {"hash": hashes[-1]})
        await task
    return is_free


HASHES = text(
    "SELECT hashtextextended('stock/' || sku || '/main', 0) FROM unnest('{A,B,C,D}'::text[]) AS sku"
)
TRY = text("SELECT pg_try_advisory_xact_lock(CAST(:hash AS bigint))")


async def test_named_locks_are_taken_in_the_order_of_their_hashes(database, monkeypatch):
    assert await highest_is_free(database)
    backwards = advisory.LOCK.text.replace("BY hash", "BY hash DESC")
    monkeypatch.setattr(advisory, "LOCK", text(backwards))
    assert not await highest_is_free(database)


async def test_a_named_lock_makes_other_transactions_wait(database, monkeypatch):
    assert await second_waits(database)
    harmless = advisory.LOCK.text.replace("pg_advisory_xact_lock(hash)", "hash")
    monkeypatch.setattr(advisory, "LOCK", text(harmless))
    assert not await second_waits(database)


async def second_waits(database: Database) -> bool:
    """Return whether a transaction for the same row waits until the first transaction ends."""
    wanted = Wanted(stock={("A", "main")})
    async with session(database) as first, session(database) as second:
        await first.connection.execute(advisory.LOCK, key_parameters(wanted))
        locking = second.connection.execute(advisory.LOCK, key_parameters(wanted))
        task = asyncio.create_task(locking)
        waiting = asyncio.create_task(waits_for_a_lock(database))
        done, _ = await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await first.roll_back()
        await task
    return waiting in done
