"""A transaction that PostgreSQL aborts is run again as a whole: it has one effect or none."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from db.session.database import Database, Timeouts
from db.strategies.guard import Guard
from service.domain.commands import SetStock
from service.domain.errors import Contention
from service.engine.ledger import Ledger
from service.engine.retry import RetryPolicy
from tests.counting import conflicts
from tests.faults.test_cancelled import both
from tests.faults.test_lost_connections import effects, run
from tests.roles import as_superuser

LOCK = "SELECT FROM stock WHERE sku = $1 FOR UPDATE"
WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that detects no deadlock, so that PostgreSQL aborts the service's session."""
    connection = await asyncpg.connect(as_superuser(database_url))
    await connection.execute("SET deadlock_timeout = '60s'")
    yield connection
    await connection.close()


async def opened(url: str, **timeouts: float) -> Ledger:
    connection = await asyncpg.connect(as_superuser(url))
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '300ms'")
    await connection.close()
    database = Database(url, pool_size=2, timeouts=Timeouts(**timeouts))
    ledger = Ledger(database, Guard(), RetryPolicy(attempts_max=3))
    for sku in "AB":
        await run(ledger, SetStock(sku, "main", 10, None, None, None))
    return ledger


async def waits(url: str) -> None:
    watcher = await asyncpg.connect(url)
    async with asyncio.timeout(10):
        while not await watcher.fetchval(WAITING):
            await asyncio.sleep(0.002)
    await watcher.close()


async def test_a_transaction_that_loses_a_deadlock_is_run_again(database_url, other):
    """The service always locks rows in one order, but a person with psql may not."""
    ledger = await opened(database_url, lock=5)
    before = conflicts("deadlock")
    async with other.transaction():
        await other.execute(LOCK, "B")
        reserving = asyncio.create_task(run(ledger, both(1)))
        await waits(database_url)
        await other.execute(LOCK, "A")
    assert (await reserving).effect == "created"
    assert conflicts("deadlock") == before + 1
    assert await effects(database_url) == 2
    await ledger.database.close()


async def test_a_transaction_with_a_statement_timeout_is_run_again(database_url, other):
    ledger = await opened(database_url, lock=5, statement=0.3)
    before = conflicts("lock_timeout")
    async with other.transaction():
        await other.execute(LOCK, "A")
        reserving = asyncio.create_task(run(ledger, both(1)))
        while conflicts("lock_timeout") == before:
            await asyncio.sleep(0.005)
    assert (await reserving).effect == "created"
    assert await effects(database_url) == 2
    await ledger.database.close()


@pytest.mark.parametrize("timeouts", [{"statement": 0.1}, {"lock": 0.1}], ids=str)
async def test_a_request_that_never_gets_its_lock_is_contention_and_nothing_is_written(
    database_url, other, timeouts
):
    ledger = await opened(database_url, **timeouts)
    async with other.transaction():
        await other.execute(LOCK, "B")
        with pytest.raises(Contention) as refusal:
            await run(ledger, both(1))
        assert refusal.value.fields["attempts"] == 3
    assert await effects(database_url) == 0
    await ledger.database.close()
