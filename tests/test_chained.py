"""COMMIT AND CHAIN: when the next batch waits already, COMMIT begins its transaction."""

import asyncio
from typing import Any

import asyncpg
import pytest

from db.rows import Line
from db.session.database import Database, DatabaseError, Transaction
from db.session.engine import driver_of
from db.strategies.guard import Guard
from service.domain.commands import Reserve, SetStock
from service.domain.identifiers import reservation_id
from service.engine.ledger import Ledger


async def backend(transaction: Transaction) -> int:
    transaction.is_empty = True
    return driver_of(transaction.connection).get_server_pid()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a chained transaction wait longer for its caller: 50 ms are short on a busy machine."""
    monkeypatch.setattr("db.session.database.CHAIN_SECONDS", 2.0)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The isolation level of each BEGIN that is sent."""
    levels: list[str] = []
    begin = Transaction.begin

    async def noted(self: Transaction, isolation: str = "READ COMMITTED") -> None:
        levels.append(isolation)
        await begin(self, isolation)

    monkeypatch.setattr(Transaction, "begin", noted)
    return levels


async def idle_in_transaction(url: str) -> int:
    connection = await asyncpg.connect(url)
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    await connection.close()
    return int(count)


async def chained(database: Database, **more: Any) -> int:
    return await database.transact(backend, chain_if=lambda: True, **more)


async def test_the_next_transaction_needs_no_begin_and_no_other_connection(database, begun):
    assert await chained(database) == await chained(database) == await chained(database)
    assert begun == ["READ COMMITTED"]


async def test_another_caller_gets_a_transaction_of_its_own(database, begun):
    first = await chained(database)
    assert await database.transact(backend) != first
    assert begun == ["READ COMMITTED"] * 2


async def test_another_isolation_level_needs_a_new_transaction(database, begun):
    await chained(database)
    await chained(database, isolation="SERIALIZABLE")
    assert begun == ["READ COMMITTED", "SERIALIZABLE"]


async def test_a_chained_transaction_on_a_distrusted_connection_is_not_used(database, begun):
    await chained(database)
    database.pool._trusted_since = float("inf")
    assert database._take_chained("READ COMMITTED") is None
    assert database._chained is None


async def test_a_chained_transaction_that_no_caller_takes_is_released(database, database_url):
    await chained(database)
    assert await idle_in_transaction(database_url) == 1
    async with asyncio.timeout(10):
        while await idle_in_transaction(database_url):
            await asyncio.sleep(0.01)
    assert database.pool.in_use == 0


async def test_a_chained_transaction_is_released_when_the_database_is_closed(database_url):
    database = Database(database_url, pool_size=2)
    await chained(database)
    await database.close()
    assert await idle_in_transaction(database_url) == 0


async def test_a_transaction_that_failed_before_its_commit_is_not_chained(database):
    async def careless(transaction: Transaction) -> None:
        transaction.is_empty = True
        with pytest.raises(asyncpg.PostgresError):
            await driver_of(transaction.connection).execute("SELECT 1 / 0")

    with pytest.raises(DatabaseError, match="had failed before COMMIT"):
        await database.transact(careless, chain_if=lambda: True)
    assert database._chained is None
    assert database.pool.in_use == 0


async def test_a_batch_whose_chained_connection_has_died_is_run_again(database, database_url):
    ledger = Ledger(database, Guard())
    killer = await asyncpg.connect(database_url)
    await ledger.execute([SetStock("A", "main", 9, None, None, None)], lambda: True)
    assert await killer.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    await killer.close()
    line = Line("A", "main", 1)
    order = Reserve("us", "1", None, (line,), None, {}, reservation_id("us", "1"))
    (outcome,) = await ledger.execute([order])
    assert outcome.effect == "created"
