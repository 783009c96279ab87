"""The limits of a source in PostgreSQL: locks, and the wait that makes the first count exact."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.ledger.load import load, lock, locked_elsewhere
from db.queries import source_limits
from db.queries.audit import LOCK as AUDIT_LOCK
from db.queries.audit import audit
from db.rows import Wanted
from db.session.configuration import Timeouts
from db.session.database import Conflict, Database, StoreUnavailable, Transaction
from db.session.failures import sqlstate
from db.strategies import serializable
from db.strategies.guard import Guard
from db.strategies.serializable import Serializable
from db.strategies.strategy import HeldLocks, Strategy
from db.vocabulary import Tracking
from service.domain.commands import Cancel, wanted_by
from service.domain.planner import Plan
from service.engine.ledger import Ledger
from service.engine.source_limits import SourceLimits
from tests.conftest import fresh_database
from tests.sessions import session
from tests.test_guards import US, begin, end, of, put, reserve
from tests.test_locks import holding, run, waits_for_a_lock
from tests.test_row_locks import is_locked, statement

LOCK_A = "SELECT 1 FROM source_limit WHERE source = 'a' FOR UPDATE"
BOTH = Wanted(holders={"a", "b"})


async def limit(database: Database, *sources: str) -> None:
    """Limit these sources, in this order."""
    for source in sources:
        await SourceLimits(database).put(source, {"open_holds_max": 5})


async def b_is_free(database: Database) -> bool:
    """Return whether a session that waits for the limits of a leaves those of b unlocked."""
    free = text("SELECT 1 FROM source_limit WHERE source = 'b' FOR UPDATE SKIP LOCKED")
    async with session(database) as waiting, database.engine.connect() as other:
        async with holding(database, LOCK_A):
            task = asyncio.create_task(lock(waiting.connection, BOTH))
            await waits_for_a_lock(database)
            is_free = await other.scalar(free) is not None
        await task
    return is_free


async def test_limits_are_locked_in_the_order_of_their_sources(database):
    await limit(database, "b", "a")
    assert await b_is_free(database)


async def test_without_order_by_limits_would_be_locked_in_another_order(database, monkeypatch):
    await limit(database, "b", "a")
    statement("LOCK_LIMITS", "BY source_limit.source", "BY source_limit.source DESC")(monkeypatch)
    assert not await b_is_free(database)


async def lock_both(transaction: Transaction) -> None:
    await lock(transaction.connection, BOTH)


async def test_the_limits_of_the_sources_stay_locked(database, monkeypatch):
    await limit(database, "b", "a")
    assert await is_locked(database, lock_both, "source_limit")
    statement("LOCK_LIMITS", "FOR UPDATE OF source_limit", "")(monkeypatch)
    assert not await is_locked(database, lock_both, "source_limit")


async def test_limits_that_are_locked_elsewhere_are_found_without_waiting(database):
    await limit(database, "a", "b")
    async with holding(database, LOCK_A), database.engine.connect() as connection:
        snapshot = await load(connection, BOTH)
        assert await locked_elsewhere(connection, snapshot) == {"a"}


async def test_without_skip_locked_the_look_up_of_limits_would_wait(
    database_url, database, monkeypatch
):
    await limit(database, "a", "b")
    statement("FREE_LIMITS", "SKIP LOCKED", "")(monkeypatch)
    impatient = Database(database_url, pool_size=1, timeouts=Timeouts(lock=0.05))
    async with holding(database, LOCK_A), impatient.engine.connect() as connection:
        snapshot = await load(connection, BOTH)
        with pytest.raises(DBAPIError) as error:
            await locked_elsewhere(connection, snapshot)
        assert sqlstate(error.value) == "55P03"
    await impatient.close()


@asynccontextmanager
async def table_locked(database: Database) -> AsyncIterator[Transaction]:
    """Lock the table of limits against reading, until the session commits."""
    async with session(database) as transaction:
        lock_table = text("LOCK TABLE source_limit IN ACCESS EXCLUSIVE MODE")
        await transaction.connection.execute(lock_table)
        yield transaction


CREATED = text("""
    INSERT INTO source_limit (source, open_holds_max, tracking, open_holds, held_units, version)
    VALUES ('us', 5, 'counting', 0, 0, 1)
""")
HOLD = reserve("1", 60, A=1)


async def sees_limits_that_commit_during_its_wait(database: Database, strategy: Strategy) -> bool:
    """Return whether a load that waits for the lock of the table sees what commits meanwhile.

    If so, its snapshot is younger than its lock.
    """
    transaction = Transaction(await database.engine.connect())
    try:
        async with table_locked(database) as locking:
            begun = asyncio.create_task(load_after_begin(transaction, strategy))
            await waits_for_a_lock(database)
            await locking.connection.execute(CREATED)
            await locking.commit()
        return "us" in (await begun)
    finally:
        await end(transaction)


async def load_after_begin(transaction: Transaction, strategy: Strategy) -> Any:
    await transaction.begin(strategy.isolation)
    snapshot = await strategy.load(transaction.connection, wanted_by([HOLD]), locked=False)
    return snapshot.limits


@pytest.mark.parametrize("strategy", [Guard(), Serializable()])
async def test_a_transaction_locks_the_limits_before_it_takes_its_snapshot(database, strategy):
    assert await sees_limits_that_commit_during_its_wait(database, strategy)


async def test_without_the_early_lock_a_serializable_snapshot_would_be_older(database, monkeypatch):
    monkeypatch.setattr(serializable, "LOCK", "SELECT 1")
    monkeypatch.setattr(Serializable, "isolation", "SERIALIZABLE")
    assert not await sees_limits_that_commit_during_its_wait(database, Serializable())


async def row_is(database: Database, condition: str) -> None:
    """Wait until the row of the source fulfils a condition."""
    question = text(f"SELECT 1 FROM source_limit WHERE source = 'us' AND {condition}")
    async with asyncio.timeout(30), database.engine.connect() as connection:
        while not await connection.scalar(question):
            await asyncio.sleep(0.005)  # the timeout limits it; PostgreSQL can't notify us


async def waiting_put(database: Database, holds: int = 1) -> asyncio.Task[Any]:
    """Set a first limit; return when it is stored and waits for transactions."""
    limiting = asyncio.create_task(SourceLimits(database).put("us", {"open_holds_max": holds}))
    await row_is(database, f"tracking = 'counting' AND open_holds_max = {holds}")
    await asyncio.wait({limiting}, timeout=0.2)
    assert not limiting.done()
    return limiting


async def write(transaction: Transaction, planned: Plan) -> None:
    await Guard().apply(transaction, planned.writes, HeldLocks())


async def commit(transaction: Transaction) -> None:
    await transaction.commit()
    await end(transaction)


async def used(database: Database) -> tuple[str, int, int]:
    found = await SourceLimits(database).get("us")
    return found.tracking, found.open_holds, found.held_units


async def test_the_first_limit_waits_for_a_hold_that_has_not_seen_it(database):
    await run(database, put("A", 5))
    slow, planned = await begin(database, [reserve("1", 60, A=2)])
    limiting = await waiting_put(database)
    await write(slow, planned)
    await commit(slow)
    await limiting
    assert await used(database) == (Tracking.ON, 1, 2)
    (refused,) = await Ledger(database, Guard()).execute([reserve("2", 60, A=1)])
    assert refused.code == "quota_exceeded"
    assert refused.fields == {"limit": "open_holds_max", "max": 1, "used": 1, "asked": 1}


async def test_without_the_wait_that_hold_would_not_be_counted(postgres_url, monkeypatch):
    monkeypatch.setattr(source_limits, "transactions_that_may_have_missed_it", nobody)
    async with fresh_database(postgres_url) as url:
        database = Database(url, pool_size=4)
        await run(database, put("A", 5))
        slow, planned = await begin(database, [reserve("1", 60, A=2)])
        await SourceLimits(database).put("us", {"open_holds_max": 1})
        await write(slow, planned)
        await commit(slow)
        assert await used(database) == (Tracking.ON, 0, 0)
        (drift,) = (await audit(database, seconds_max=60)).drift
        assert drift == {
            "rule": "the use of a source's limits equals its open holds",
            "source": "us",
            "expected": "open holds 1, units 2",
            "found": "open holds 0, units 0",
        }
        await database.close()


async def nobody(_connection: Any) -> list[str]:
    return []


async def test_the_first_limit_waits_for_the_end_of_a_hold_that_has_not_seen_it(database):
    await run(database, put("A", 5), reserve("1", 60, A=2), reserve("2", 60, A=1))
    slow, planned = await begin(database, [Cancel(US, of("1"))])
    limiting = await waiting_put(database)
    await write(slow, planned)
    await commit(slow)
    await limiting
    assert await used(database) == (Tracking.ON, 1, 1)


async def counting(database: Database) -> None:
    """Store a first limit without the count, as if the process had died before it."""
    await database.transact(
        lambda transaction: source_limits.replace(
            transaction.connection, "us", {"open_holds_max": 5}
        )
    )


async def count(database: Database) -> None:
    assert await database.transact(
        lambda transaction: source_limits.count(transaction.connection, "us", 1)
    )


async def test_a_hold_that_has_seen_the_first_limit_and_written_is_awaited_by_the_count(database):
    await run(database, put("A", 5))
    await counting(database)
    slow, planned = await begin(database, [reserve("1", 60, A=2)])
    await write(slow, planned)
    task = asyncio.create_task(count(database))
    await waits_for_a_lock(database)
    await commit(slow)
    await task
    assert await used(database) == (Tracking.ON, 1, 2)


async def test_without_the_lock_of_the_row_the_count_would_miss_that_hold(
    postgres_url, monkeypatch
):
    unlocked = source_limits.LOCK.text.replace("FOR UPDATE", "")
    monkeypatch.setattr(source_limits, "LOCK", text(unlocked))
    async with fresh_database(postgres_url) as url:
        database = Database(url, pool_size=4)
        await run(database, put("A", 5))
        await counting(database)
        slow, planned = await begin(database, [reserve("1", 60, A=2)])
        await write(slow, planned)
        task = asyncio.create_task(count(database))
        await waits_for_a_lock(database)
        await commit(slow)
        await task
        assert await used(database) == (Tracking.ON, 0, 0)
        await database.close()


async def test_a_hold_that_has_seen_the_first_limit_adds_itself_after_the_count(database):
    await run(database, put("A", 5), reserve("1", 60, A=1))
    await counting(database)
    slow, planned = await begin(database, [reserve("2", 60, A=2)])
    await count(database)
    assert await used(database) == (Tracking.ON, 1, 1)
    await write(slow, planned)
    await commit(slow)
    assert await used(database) == (Tracking.ON, 2, 3)


async def test_a_hold_planned_while_holds_are_counted_is_refused_beyond_the_limit(database):
    await run(database, put("A", 5), *(reserve(str(n), 60, A=1) for n in range(4)))
    await counting(database)
    slow, planned = await begin(database, [reserve("x", 60, A=1)])
    other, also_planned = await begin(database, [reserve("y", 60, A=1)])
    await count(database)
    await write(slow, planned)
    await commit(slow)
    with pytest.raises(Conflict):
        await write(other, also_planned)
    await end(other)
    assert await used(database) == (Tracking.ON, 5, 5)


async def test_limits_that_were_removed_and_set_again_are_counted_only_once_all_have_ended(
    database,
):
    await run(database, put("A", 5))
    early, _ = await begin(database, [reserve("0", 60, A=1)])
    first = await waiting_put(database, holds=3)
    await SourceLimits(database).put("us", {"open_holds_max": None})
    slow, planned = await begin(database, [reserve("1", 60, A=2)])
    second = await waiting_put(database, holds=4)
    await end(early)
    await asyncio.wait({first, second}, timeout=0.3)
    assert not first.done()
    assert not second.done()
    await write(slow, planned)
    await commit(slow)
    await asyncio.gather(first, second)
    assert await used(database) == (Tracking.ON, 1, 2)


async def test_without_the_version_the_first_request_would_count_too_early(
    postgres_url, monkeypatch
):
    careless = source_limits.LOCK.text.replace("version,", "CAST(:version AS bigint) AS version,")
    monkeypatch.setattr(source_limits, "LOCK", text(careless).bindparams(version=1))
    async with fresh_database(postgres_url) as url:
        database = Database(url, pool_size=6)
        await run(database, put("A", 5))
        early, _ = await begin(database, [reserve("0", 60, A=1)])
        first = await waiting_put(database, holds=3)
        await SourceLimits(database).put("us", {"open_holds_max": None})
        slow, planned = await begin(database, [reserve("1", 60, A=2)])
        second = await waiting_put(database, holds=4)
        await end(early)
        await first
        await write(slow, planned)
        await commit(slow)
        second.cancel()
        assert await used(database) == (Tracking.ON, 0, 0)
        await database.close()


async def test_a_backup_and_an_audit_are_not_awaited(database):
    reads = "SELECT 1 FROM source_limit"
    backup = f"{reads}, alembic_version"
    auditing = f"{reads} WHERE pg_try_advisory_xact_lock({AUDIT_LOCK})"
    await counting(database)
    async with holding(database, backup), holding(database, auditing):
        await SourceLimits(database).put("us", {"open_holds_max": 1})
    assert await used(database) == (Tracking.ON, 0, 0)


async def test_a_change_that_can_not_wait_any_longer_is_finished_in_the_background(database):
    await run(database, put("A", 5), reserve("1", 60, A=2))
    impatient = SourceLimits(database, seconds_max=0.3)
    async with holding(database, "SELECT 1 FROM source_limit"):
        with pytest.raises(StoreUnavailable, match="Send the same request again"):
            await impatient.put("us", {"open_holds_max": 1})
        assert await used(database) == (Tracking.COUNTING, 1, 2)
    await impatient.finish_all()
    assert await used(database) == (Tracking.ON, 1, 2)


async def test_a_change_that_was_interrupted_is_finished_by_the_same_change(database):
    await run(database, put("A", 5), reserve("1", 60, A=2))
    await counting(database)
    await SourceLimits(database).put("us", {"open_holds_max": 5})
    assert await used(database) == (Tracking.ON, 1, 2)


async def test_a_shorter_limit_of_seconds_waits_for_transactions_too(database):
    await run(database, put("A", 5))
    await SourceLimits(database).put("us", {"hold_seconds_max": 600})
    slow, planned = await begin(database, [reserve("1", 500, A=1)])
    change = SourceLimits(database).put("us", {"hold_seconds_max": 60})
    limiting = asyncio.create_task(change)
    await row_is(database, "hold_seconds_max = 60")
    await asyncio.wait({limiting}, timeout=0.2)
    assert not limiting.done()
    await write(slow, planned)
    await commit(slow)
    await limiting


def test_a_sale_and_a_change_of_stock_do_not_read_limits():
    assert not wanted_by([reserve("1", A=1), put("A", 5)]).limits
    assert wanted_by([reserve("1", 60, A=1)]).limits
    assert wanted_by([Cancel(US, of("1"))]).limits
