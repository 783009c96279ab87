"""Standbys: a write that the standby lacks is not acknowledged; a failover loses no ack."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session.database import Database, Timeouts
from db.strategies.guard import Guard
from service.domain.commands import Caller, Cancel, SetStock, verdict_of
from service.domain.errors import OutcomeUnknown, Unavailable
from service.engine.ledger import Ledger
from tests.conftest import assert_books_balance
from tests.faults.acknowledged import AcknowledgedLog
from tests.faults.proxy import COMMIT, Fault, proxy
from tests.faults.shoppers import Shoppers
from tests.faults.standby import Pair, running_pair
from tests.faults.test_lost_connections import effects, run, spend_transaction_ids
from tests.roles import as_superuser
from tests.server import running_server
from tests.test_coalescer import reserve

IMPATIENT = Timeouts(transaction=0.5, settle=0.5)
PATIENT = Timeouts(settle=20)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with running_pair() as made:
        yield made


@asynccontextmanager
async def shop(url: str, timeouts: Timeouts) -> AsyncIterator[Ledger]:
    """A ledger with ten units of A and one of B."""
    database = Database(url, pool_size=3, timeouts=timeouts)
    made = Ledger(database, Guard())
    await run(made, SetStock("A", "main", 10, None, None, None))
    await run(made, SetStock("B", "main", 1, None, None, None))
    yield made
    await database.close()


async def verdict(ledger: Ledger, command: object) -> str:
    """The effect of a command, or the code of its refusal or failure."""
    try:
        return verdict_of(await run(ledger, command))
    except OutcomeUnknown as error:
        return error.code


async def test_a_write_that_the_standby_lacks_is_not_acknowledged_at_first_or_in_a_replay(pair):
    """A wait that ends early leaves a transaction that the primary has and the standby lacks."""
    async with shop(pair.url, IMPATIENT) as ledger:
        await run(ledger, reserve("before", "B"))
        await pair.synchronous()
        cancel = Cancel(Caller("us"), reserve("late").effective_id)
        refused = reserve("refused", "B")
        with pair.frozen_standby():
            for command in (reserve("late"), cancel, refused):
                for _ in range(2):
                    assert await verdict(ledger, command) == "outcome_unknown"
        assert await verdict(ledger, reserve("late")) == "unchanged"
        assert await verdict(ledger, cancel) == "unchanged"
        assert await verdict(ledger, refused) == "insufficient_stock"
        assert await verdict(ledger, reserve("new")) == "created"
    await assert_books_balance(pair.url)


@pytest.mark.parametrize("command", [reserve("late"), reserve("refused", "B")])
async def test_without_its_own_wait_a_replay_would_acknowledge_a_lost_write(
    pair, monkeypatch, command
):
    async def careless(transaction: object) -> None: ...

    monkeypatch.setattr("db.session.database.wait_for_standby", careless)
    async with shop(pair.url, IMPATIENT) as ledger:
        await run(ledger, reserve("before", "B"))
        await pair.synchronous()
        with pair.frozen_standby():
            await verdict(ledger, command)
            assert await verdict(ledger, command) != "outcome_unknown"


async def a_commit_that_only_the_dead_primary_had(pair: Pair) -> tuple[str, int]:
    """The answer to a reservation and its effects, after its transaction id was used again."""
    async with proxy(pair.url) as wire, shop(wire.url, PATIENT) as ledger:
        await pair.caught_up()
        pair.standby.kill()
        wire.fault = Fault("swallow", at=COMMIT)
        reserving = asyncio.create_task(verdict(ledger, reserve(1)))
        while not wire.struck:
            await asyncio.sleep(0.005)
        wire.refuses = True
        pair.kill_primary()
        pair.standby.start()
        await pair.promote()
        await spend_transaction_ids(pair.standby_url)
        wire.target, wire.refuses = urlsplit(pair.standby_url), False
        return await reserving, await effects(pair.standby_url)


async def test_after_a_failover_no_other_transaction_is_taken_for_a_lost_one(pair):
    assert await a_commit_that_only_the_dead_primary_had(pair) == ("outcome_unknown", 0)


async def test_without_the_check_of_the_history_a_lost_commit_would_be_acknowledged(
    pair, monkeypatch
):
    monkeypatch.setattr("db.session.configuration.HISTORY", "SELECT 'always the same'")
    assert await a_commit_that_only_the_dead_primary_had(pair) == ("created", 0)


async def test_a_primary_that_turns_read_only_empties_the_pool_and_needs_no_restart(pair):
    async with shop(pair.url, Timeouts()) as ledger:
        before = await backends(ledger.database)
        await set_read_only(pair.url, "on")
        with pytest.raises(Unavailable):
            await run(ledger, reserve(1))
        with pytest.raises(Unavailable):
            await run(ledger, reserve(1))
        await set_read_only(pair.url, "off")
        assert (await run(ledger, reserve(1))).effect == "created"
        assert before.isdisjoint(await backends(ledger.database))


async def backends(database: Database) -> set[int]:
    """The server processes behind every connection of the pool."""
    each_has_a_connection = asyncio.Barrier(3)

    async def ask(connection: AsyncConnection) -> int:
        await each_has_a_connection.wait()
        return (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()

    return set(await asyncio.gather(*(database.read(ask, is_urgent=True) for _ in range(3))))


async def set_read_only(url: str, value: str) -> None:
    """Return when the setting is in force for new connections."""
    connection = await asyncpg.connect(as_superuser(url))
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    async with asyncio.timeout(10):
        while await fresh(url, "SHOW default_transaction_read_only") != value:
            await asyncio.sleep(0.01)


async def fresh(url: str, question: str) -> str:
    """The setting as a new connection sees it."""
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval(question))
    finally:
        await connection.close()


async def test_a_standby_behind_the_address_is_503_until_it_is_promoted(pair):
    async with proxy(pair.url) as wire, shop(wire.url, Timeouts()) as ledger:
        wire.target = urlsplit(pair.standby_url)
        pair.kill_primary()
        with pytest.raises(Unavailable):
            await run(ledger, reserve(1))
        await pair.promote()
        assert (await run(ledger, reserve(1))).effect == "created"
    await assert_books_balance(pair.standby_url)


async def test_a_primary_that_hangs_is_skipped(pair):
    """It is first in the address and still accepts connections. One failure discards the pool."""
    async with shop(pair.both, Timeouts()) as ledger:
        assert len(await backends(ledger.database)) == 3
        with pair.frozen_primary():
            await pair.promote()
            with pytest.raises(Unavailable):
                await run(ledger, reserve(1))
            assert (await run(ledger, reserve(1))).effect == "created"
        pair.kill_primary()
    await assert_books_balance(pair.standby_url)


async def test_a_failover_under_load_loses_no_ack_and_the_service_follows(pair, tmp_path):
    """The standby is synchronous, the address names both servers, and nothing is restarted."""
    with closing(AcknowledgedLog(tmp_path / "acknowledged")) as log, ExitStack() as stack:
        await pair.synchronous()
        serving = running_server(pair.both, workers=2)
        server = await asyncio.to_thread(stack.enter_context, serving)
        shoppers = Shoppers(server.url, server.headers, log, seed=11)
        await shoppers.open_shop()
        async with shoppers.shopping(8):
            await shoppers.progress(100, 30)
            pair.kill_primary()
            await asyncio.sleep(1)
            await pair.promote()
            await shoppers.progress(100, 10)
        assert await log.lost(pair.standby_url) == []
        assert await log.contradicted(pair.standby_url) == []
        await asyncio.to_thread(stack.close)
    assert shoppers.answers["none"] == 0
    await assert_books_balance(pair.standby_url)
