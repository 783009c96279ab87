"""Connections that die: at COMMIT, where only PostgreSQL knows the outcome, and at other points."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from db.embedded.postmaster import find_processes
from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.session.database import Conflict, ConnectionLost, Database, Timeouts, Transaction
from db.strategies.guard import Guard
from service.domain.commands import Command, Outcome, SetStock
from service.domain.errors import Contention, OutcomeUnknown, Unavailable
from service.engine.ledger import Ledger
from service.http.access.keys import store_key
from tests.faults.processes import kill_all
from tests.faults.proxy import COMMIT, Fault, Proxy, proxy
from tests.test_coalescer import reserve, working


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Proxy]:
    async with proxy(database_url) as made:
        yield made


@pytest.fixture
async def ledger(wire: Proxy) -> AsyncIterator[Ledger]:
    """A ledger whose connections go through the proxy; there are ten units of A."""
    database = Database(wire.url, pool_size=2, timeouts=Timeouts(settle=0.5))
    made = Ledger(database, Guard())
    await run(made, SetStock("A", "main", 10, None, None, None))
    yield made
    await database.close()


async def run(ledger: Ledger, command: Command, *, chains: bool = False) -> Outcome:
    return (await ledger.execute([command], lambda: chains))[0]


async def effects(url: str) -> int:
    """The number of reservations that took units."""
    connection = await asyncpg.connect(url)
    count = await connection.fetchval("SELECT count(*) FROM movement WHERE kind = 'reserve'")
    await connection.close()
    return count


ENDS = pytest.mark.parametrize("action", ["cut", "swallow"])  # the COMMIT or its answer is lost


@ENDS
@pytest.mark.parametrize("chains", [False, True])
async def test_a_commit_without_an_answer_is_settled_and_has_one_effect(
    ledger, wire, database_url, action, chains
):
    wire.fault = Fault(action, at=COMMIT)
    outcome = await run(ledger, reserve(1), chains=chains)
    assert (outcome.effect, wire.struck) == ("created", 1)
    assert await effects(database_url) == 1
    again = await run(ledger, reserve(1))
    assert (again.effect, again.value) == ("unchanged", outcome.value)


@pytest.mark.parametrize(("action", "effect"), [("cut", "created"), ("swallow", "unchanged")])
async def test_an_outcome_that_cannot_be_read_back_is_unknown_and_a_retry_settles_it(
    ledger, wire, database_url, action, effect
):
    wire.fault, wire.refuses = Fault(action, at=COMMIT), True
    with pytest.raises(OutcomeUnknown):
        await run(ledger, reserve(1))
    wire.refuses = False
    assert (await run(ledger, reserve(1))).effect == effect
    assert await effects(database_url) == 1


async def test_five_hundred_commits_without_an_answer_have_exactly_one_effect_each(
    ledger, wire, database_url
):
    """Each COMMIT has its own connection; sometimes the outcome can't be read back either."""
    await run(ledger, SetStock("A", "main", 1000, None, None, 1))
    chance = random.Random(500)
    answers: Counter[str] = Counter()
    for n in range(500):
        wire.fault = Fault(chance.choice(["cut", "swallow"]), at=COMMIT)
        wire.refuses = n % 50 == 49
        try:
            outcome = await run(ledger, reserve(n), chains=n % 2 == 0)
        except OutcomeUnknown:
            wire.refuses = False
            outcome = await run(ledger, reserve(n))
            answers["unknown, then"] += 1
        assert outcome.effect in ("unchanged", "created")
    assert (wire.struck, answers["unknown, then"]) == (500, 10)
    assert await effects(database_url) == 500


async def test_no_request_fails_because_its_connection_is_cut_before_commit(
    ledger, wire, database_url
):
    """The cut is at every twentieth byte of a transaction, from BEGIN to the end of its COMMIT."""
    await run(ledger, SetStock("A", "main", 1000, None, None, 1))
    await run(ledger, reserve("to prepare the statements"))
    before = wire.passed
    await run(ledger, reserve("9999"))  # to measure the bytes of a transaction
    places = range(0, wire.passed - before, 20)
    for place in places:
        wire.fault = Fault("cut", after=place)
        assert (await run(ledger, reserve(f"{place:04}"))).effect == "created"
    assert wire.struck == len(places)
    assert await effects(database_url) == len(places) + 2


async def test_a_request_does_not_wait_for_a_silent_server(wire, database_url):
    """The server falls silent between BEGIN and COMMIT, or at COMMIT; a retry finds the outcome."""
    database = Database(wire.url, pool_size=2, timeouts=Timeouts(transaction=0.3))
    ledger = Ledger(database, Guard())
    await run(ledger, SetStock("A", "main", 10, None, None, None))
    for fault in (Fault("stall", after=100), Fault("stall", at=COMMIT)):
        wire.fault = fault
        try:
            outcome = await run(ledger, reserve("1"))
        except Unavailable:
            outcome = await run(ledger, reserve("1"))
        assert outcome.effect in ("unchanged", "created")
    assert wire.struck == 2
    await database.close()
    assert await effects(database_url) == 1


async def test_a_server_that_falls_silent_after_a_lost_race_does_not_block_a_lane(wire):
    """The connection is dropped, and the server then rolls the transaction back."""
    database = Database(wire.url, pool_size=2, timeouts=Timeouts(transaction=60))

    async def lose(transaction: Transaction) -> None:
        raise Conflict("stock_changed")

    await database.ping()
    wire.fault = Fault("stall", at=re.compile(b"ROLLBACK"))
    async with asyncio.timeout(20):
        with pytest.raises(Conflict):
            await database.transact(lose)
        await database.ping()
    assert wire.struck == 1
    await database.close()


@ENDS
async def test_a_merged_batch_is_settled_as_one(wire, database_url, action):
    async with working(wire.url) as coalescer:
        wire.fault = Fault(action, at=COMMIT)
        answers = await asyncio.gather(*(coalescer.submit([reserve(n)]) for n in range(20)))
        assert [o[0].effect for o in answers] == ["created"] * 20
        assert wire.struck == 1
    assert await effects(database_url) == 20


async def test_randomly_terminated_backends_lose_no_write_and_repeat_none(database_url):
    """Every request is answered, and repeated until its answer is final."""
    async with working(database_url) as coalescer:
        killing = asyncio.create_task(kill_backends(database_url))

        async def insist(n: int) -> str:
            while True:
                try:
                    return (await coalescer.submit([reserve(n)]))[0].effect
                except (Contention, OutcomeUnknown, Unavailable):
                    await asyncio.sleep(0)

        async with asyncio.timeout(60):
            effects_told = [await asyncio.gather(*map(insist, range(n, n + 5))) for n in ROUNDS]
        await killing
        assert {effect for five in effects_told for effect in five} <= {"unchanged", "created"}
    assert await effects(database_url) == 5 * len(ROUNDS)


@pytest.mark.parametrize(("action", "stored"), [("cut", False), ("swallow", True)])
async def test_a_new_key_whose_commit_gets_no_answer_is_stored_or_reported_as_lost(
    wire, database_url, action, stored
):
    """A write that does not go through the ledger is settled in the same way."""
    database = Database(wire.url, pool_size=2)
    await database.ping()  # since connecting sends a COMMIT of its own
    wire.fault = Fault(action, at=COMMIT)
    try:
        await store_key(database, "hf_a-key", "us", ["read"])
    except ConnectionLost:
        told = False
    else:
        told = True
    await database.close()
    connection = await asyncpg.connect(database_url)
    found = await connection.fetchval("SELECT count(*) FROM api_key")
    await connection.close()
    assert (told, bool(found), wire.struck) == (stored, stored, 1)


async def a_commit_that_never_reached_a_server_that_crashed(directory: Path) -> tuple[Any, int]:
    """The answer to a reservation and its effects, after its transaction id was used again."""
    slow = {"wal_writer_delay": "10s"}  # so that none of the WAL has reached the disk
    with EmbeddedPostgres(directory, settings=slow) as postgres:
        async with proxy(postgres.addresses.serving) as wire:
            database = Database(wire.url, pool_size=2, timeouts=Timeouts(settle=20))
            await upgrade(database, postgres.addresses.migrating)
            ledger = Ledger(database, Guard())
            await run(ledger, SetStock("A", "main", 10, None, None, None))
            wire.fault = Fault("cut", at=COMMIT)
            reserving = asyncio.create_task(run(ledger, reserve(1)))
            while not wire.struck:
                await asyncio.sleep(0.001)
            wire.refuses = True
            kill_all(find_processes(directory / "postgresql"))
            while not postgres.ensure_running():
                await asyncio.sleep(0.05)
            await spend_transaction_ids(postgres.url)
            wire.refuses = False
            (answer,) = await asyncio.gather(reserving, return_exceptions=True)
            await database.close()
        return answer, await effects(postgres.url)


async def spend_transaction_ids(url: str) -> None:
    connection = await asyncpg.connect(url)
    for _ in range(100):
        await connection.execute("SELECT pg_current_xact_id()")
    await connection.close()


async def test_after_a_crash_no_other_transaction_is_taken_for_a_lost_one(tmp_path):
    answer, count = await a_commit_that_never_reached_a_server_that_crashed(tmp_path)
    assert (type(answer), count) == (OutcomeUnknown, 0)


async def test_without_the_check_of_the_history_a_lost_commit_would_be_acknowledged(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("db.session.configuration.HISTORY", "SELECT 'always the same'")
    answer, count = await a_commit_that_never_reached_a_server_that_crashed(tmp_path)
    assert (answer.effect, count) == ("created", 0)


ROUNDS = range(0, 300, 5)


async def kill_backends(url: str) -> None:
    chance = random.Random(7)
    connection = await asyncpg.connect(url)
    for _ in range(40):
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'holdfast'"
        )
        await asyncio.sleep(chance.uniform(0, 0.05))
    await connection.close()
