"""Locks and the clock: rows are locked in one order, and a wait for a lock hides no deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.ledger import apply as writes
from db.ledger import load as reads
from db.ledger.load import load, lock, locked_elsewhere
from db.rows import Line, Wanted
from db.session import database as db
from db.session.database import Conflict, Database, Timeouts, Transaction
from db.strategies.guard import Guard
from service.domain.commands import Caller, Command, Confirm, Reserve, SetStock, wanted_by
from service.domain.identifiers import reservation_id
from service.domain.planner import plan
from service.engine.ledger import Ledger
from tests.conftest import fresh_database
from tests.sessions import session

US = Caller("us")
A_AND_B = Reserve(
    "us",
    "1",
    None,
    (Line("A", "main", 1), Line("B", "main", 1)),
    None,
    {},
    reservation_id("us", "1"),
)
HOLD = Reserve("us", "1", None, (Line("A", "main", 1),), 60, {}, reservation_id("us", "1"))
CONFIRM = Confirm(US, HOLD.effective_id, None)


async def run(database: Database, *commands: Command) -> None:
    for command in commands:
        await Ledger(database, Guard()).execute([command])


def put(sku: str) -> SetStock:
    return SetStock(sku, "main", 5, None, None, None)


@asynccontextmanager
async def holding(database: Database, statement: str) -> AsyncIterator[Any]:
    """Run a statement in another session, which does not commit before the end of the block."""
    async with session(database) as transaction:
        await transaction.connection.execute(text(statement))
        yield transaction.connection


async def waits_for_a_lock(database: Database) -> None:
    """Wait until a session of this database waits for a lock."""
    question = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(30), database.engine.connect() as connection:
        while not await connection.scalar(question):
            await asyncio.sleep(
                0.005
            )  # the timeout limits it; PostgreSQL can't notify us of a lock


async def can_be_locked_now(database: Database, sku: str) -> bool:
    """Return whether the row is unlocked."""
    free = text("SELECT 1 FROM stock WHERE sku = :sku FOR UPDATE SKIP LOCKED")
    async with database.engine.connect() as connection:
        return await connection.scalar(free, {"sku": sku}) is not None


LOCK_A = "SELECT 1 FROM stock WHERE sku = 'A' FOR UPDATE"


async def keeps_b_free(
    database: Database, work: Callable[[Transaction], Any], prepare: tuple[str, ...] = ()
) -> bool:
    """Return whether the work leaves row B unlocked while it waits for row A."""
    async with session(database) as transaction:
        for statement in prepare:
            await transaction.connection.execute(text(statement))
        async with holding(database, LOCK_A):
            task = asyncio.create_task(work(transaction))
            await waits_for_a_lock(database)
            is_free = await can_be_locked_now(database, "B")
        await task
    return is_free


async def lock_both(transaction: Transaction) -> None:
    await lock(transaction.connection, wanted_by([A_AND_B]))


async def take_both(transaction: Transaction) -> None:
    snapshot = await load(transaction.connection, wanted_by([A_AND_B]))
    await writes.apply(transaction, plan(snapshot, [A_AND_B]).writes)


@pytest.mark.parametrize("work", [lock_both, take_both])
async def test_rows_are_locked_in_the_order_of_their_keys(database, work):
    """The rows were created in the opposite order."""
    await run(database, put("B"), put("A"))
    assert await keeps_b_free(database, work)


async def test_without_order_by_rows_would_be_locked_in_another_order(database, monkeypatch):
    await run(database, put("B"), put("A"))
    backwards = text(reads.LOCK_STOCK.text.replace("stock.sku, stock.location", "stock.sku DESC"))
    monkeypatch.setattr(reads, "LOCK_STOCK", backwards)
    assert not await keeps_b_free(database, lock_both)


async def test_with_scans_the_update_would_lock_rows_in_another_order(postgres_url, monkeypatch):
    """A scan reads the rows in their order on disk."""
    monkeypatch.setattr("db.session.configuration.NEVER_SCANS", ())
    async with fresh_database(postgres_url) as url:
        database = Database(url, pool_size=4)
        await run(database, put("B"), put("A"))
        async with database.engine.begin() as connection:
            await connection.execute(MANY_ROWS)
        hash_join = ("SET enable_nestloop = off", "SET enable_mergejoin = off")
        assert not await keeps_b_free(database, take_both, hash_join)
        await database.close()


MANY_ROWS = text("""
    INSERT INTO stock (sku, location, available, held, version, created_at, updated_at)
    SELECT 'C' || n, 'main', 0, 0, 1, now(), now() FROM generate_series(1, 1000) AS n
""")


async def test_reservations_are_locked_before_stock(database):
    await run(database, put("A"), HOLD)
    wanted = Wanted(reservations={HOLD.effective_id}, stock={("A", "main")})
    async with session(database) as transaction:
        async with holding(database, "SELECT 1 FROM reservation FOR UPDATE"):
            task = asyncio.create_task(lock(transaction.connection, wanted))
            await waits_for_a_lock(database)
            assert await can_be_locked_now(database, "A")
        await task


async def test_a_row_that_is_locked_elsewhere_is_found_without_waiting(database):
    await run(database, put("A"), put("B"))
    async with holding(database, LOCK_A), database.engine.connect() as connection:
        snapshot = await load(connection, wanted_by([A_AND_B]))
        assert await locked_elsewhere(connection, snapshot) == {("A", "main")}


async def test_without_skip_locked_the_look_up_would_wait(database_url, database, monkeypatch):
    await run(database, put("A"), put("B"))
    waiting = text(reads.FREE_STOCK.text.replace("SKIP LOCKED", ""))
    monkeypatch.setattr(reads, "FREE_STOCK", waiting)
    impatient = Database(database_url, pool_size=1, timeouts=Timeouts(lock=0.05))
    async with holding(database, LOCK_A), impatient.engine.connect() as connection:
        snapshot = await load(connection, wanted_by([A_AND_B]))
        with pytest.raises(DBAPIError) as error:
            await locked_elsewhere(connection, snapshot)
        assert db.sqlstate(error.value) == "55P03"
    await impatient.close()


async def confirm_behind_a_lock(database: Database) -> None:
    """Plan a confirm before the deadline, and make it wait for a lock until after the deadline."""
    await run(database, put("A"), HOLD)
    connection = await database.engine.connect()
    await connection.execute(
        text("UPDATE reservation SET expires_at = clock_timestamp() + interval '0.3 s'")
    )
    transaction = Transaction(connection)
    await transaction.begin()
    planned = plan(await load(connection, wanted_by([CONFIRM])), [CONFIRM])
    assert planned.outcomes[0].effect == "changed"
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(holding(database, LOCK_A))
        task = asyncio.create_task(writes.apply(transaction, planned.writes))
        await waits_for_a_lock(database)
        await other.execute(
            text("SELECT pg_sleep_until(expires_at + interval '1 ms') FROM reservation")
        )
        await stack.aclose()
        try:
            await task
        finally:
            await transaction.roll_back()
            await connection.close()


async def test_a_confirm_that_waits_for_a_lock_beyond_the_deadline_is_refused(database):
    with pytest.raises(Conflict) as conflict:
        await confirm_behind_a_lock(database)
    assert conflict.value.kind == "deadline"
    assert (await Ledger(database, Guard()).execute([CONFIRM]))[0].fields["state"] == "expired"


async def test_with_the_time_of_begin_a_late_confirm_would_succeed(database, monkeypatch):
    """In PostgreSQL, `now()` is the time of BEGIN."""
    monkeypatch.setattr(writes, "CLOCK", "now()")
    monkeypatch.setattr(writes, "_STATEMENTS", {})
    await confirm_behind_a_lock(database)


async def test_without_the_check_of_the_clock_a_late_confirm_would_succeed(database, monkeypatch):
    apply = writes.apply

    async def careless(transaction: Transaction, planned: Any) -> None:
        planned.apply_before = None
        await apply(transaction, planned)

    monkeypatch.setattr(writes, "apply", careless)
    await confirm_behind_a_lock(database)


async def overdue_after_begin(database: Database) -> bool:
    """Return whether a plan sees a deadline that passed between BEGIN and the read of the rows."""
    await run(database, put("A"), HOLD)
    async with session(database) as transaction:
        connection = transaction.connection
        async with database.engine.connect() as other:
            await other.execute(text("UPDATE reservation SET expires_at = clock_timestamp()"))
        wanted = Wanted(reservations={HOLD.effective_id}, overdue={("A", "main")})
        snapshot = await load(connection, wanted)
        return snapshot.now >= snapshot.reservations[HOLD.effective_id].expires_at


async def test_a_plan_reads_the_clock_when_it_reads_the_rows(database, monkeypatch):
    assert await overdue_after_begin(database)


async def test_with_the_time_of_begin_a_plan_would_miss_a_deadline(database, monkeypatch):
    monkeypatch.setattr(reads, "CLOCK", "now()")
    monkeypatch.setattr(reads, "_STATEMENTS", {})
    assert not await overdue_after_begin(database)
