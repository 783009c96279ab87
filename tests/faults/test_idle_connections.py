"""Idle connections that die: the server closes them, or the network closes or forgets them."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from db.embedded.postmaster import find_processes
from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.session.configuration import Timeouts
from db.session.database import Database, StoreUnavailable
from db.session.engine import driver_of
from db.strategies.guard import Guard
from service.domain.commands import SetStock
from service.engine.ledger import Ledger
from tests.conftest import Service, running_service
from tests.counting import conflicts
from tests.faults.processes import kill_all
from tests.faults.proxy import Fault, Proxy, proxy
from tests.faults.test_lost_connections import run
from tests.test_coalescer import reserve

# The BEGIN of a transaction of the service; connecting sends a plain BEGIN.
BEGIN = re.compile(rb"BEGIN ISOLATION")
POOL_SIZE = 8


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Proxy]:
    async with proxy(database_url) as made:
        yield made


@pytest.fixture
async def ledger(wire: Proxy) -> AsyncIterator[Ledger]:
    """A ledger with connections through the proxy; only the check at BEGIN has a short timeout."""
    patient = Timeouts(pool=30, connect=30, check=0.2, transaction=60)
    made = Ledger(Database(wire.url, pool_size=POOL_SIZE, timeouts=patient), Guard())
    await run(made, SetStock("A", "main", 1000, None, None, None))
    yield made
    await made.database.close()


async def fill(database: Database) -> None:
    """Make the pool open as many connections as it may."""
    connections = [await database.pool.take() for _ in range(POOL_SIZE)]
    for connection in connections:
        await database.pool.give_back(connection)


async def until_all_are_gone(url: str) -> None:
    watcher = await asyncpg.connect(url)
    async with asyncio.timeout(30):
        while await watcher.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'holdfast'"
        ):
            await asyncio.sleep(0.01)
    await watcher.close()


async def statuses(service: Service, round_: str) -> set[int]:
    """The statuses of concurrent requests after an idle time; the reads use half of the pool."""
    answers = await asyncio.gather(
        *(service.reserve(f"{round_}{n}", ("A", 1)) for n in range(12)),
        *(service.client.get("/v1/stock/A/main") for _ in range(2)),
        *(service.client.get("/v1/reservations?limit=5") for _ in range(2)),
    )
    return {answer.status_code for answer in answers}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["the server", "an administrator"])
async def test_no_request_fails_because_sessions_ended_while_idle(database_url, how):
    """They cause no error and no retry, because the budget for retries is for lost races."""
    async with running_service(database_url, sweeps=False) as service:
        await service.stock("A", 1000)
        before = conflicts("connection_lost")
        for round_ in "abc":
            await fill(service.database)
            if how == "the server":
                await service.sql(
                    f"ALTER DATABASE {database_url.rpartition('/')[2]}"
                    " SET idle_session_timeout = '200ms'"
                )
                service.database.pool.distrust()
                await fill(service.database)
            else:
                await service.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'holdfast'"
                )
            await until_all_are_gone(database_url)
            assert await statuses(service, round_) == {200, 201}
        assert conflicts("connection_lost") == before


@pytest.mark.parametrize("action", ["cut", "stall"])
async def test_a_connection_found_dead_at_begin_uses_no_retry(ledger, wire, monkeypatch, action):
    """The proxy closes the connection at BEGIN, or neither forwards nor closes anything."""
    monkeypatch.setattr("db.session.database.IDLE_SECONDS", -1.0)
    before = conflicts("connection_lost")
    await fill(ledger.database)
    wire.fault = Fault(action, at=BEGIN)
    async with asyncio.timeout(20):
        outcome = await run(ledger, reserve(1))
    assert (outcome.effect, wire.struck) == ("created", 1)
    assert conflicts("connection_lost") == before


async def test_a_silent_server_gets_the_usual_time_on_a_connection_that_was_just_used(ledger, wire):
    """A busy server may be slow, and a connection that was just used is likely to be alive."""
    ledger.database.timeouts = Timeouts(pool=0.2, connect=0.8, check=0.01)
    await fill(ledger.database)
    wire.fault = Fault("stall", at=BEGIN)
    with pytest.raises(StoreUnavailable):
        await ledger.database.ping()
    await ledger.database.ping()


async def test_after_one_dead_connection_the_others_are_replaced_before_use(ledger, wire):
    """Of eight requests, one after another, only one finds a dead connection."""
    await fill(ledger.database)
    old = list(ledger.database.pool._idle)
    wire.fault = Fault("cut", at=BEGIN)
    assert (await run(ledger, reserve(0))).effect == "created"
    await fill(ledger.database)
    assert len(old) == len(ledger.database.pool._idle) == POOL_SIZE
    assert not any(each is other for each in old for other in ledger.database.pool._idle)


async def test_a_connection_that_is_known_to_be_dead_does_not_discard_the_others(database_url):
    database = Database(database_url, pool_size=POOL_SIZE)
    await fill(database)
    *others, last = list(database.pool._idle)
    watcher = await asyncpg.connect(database_url)
    await watcher.execute("SELECT pg_terminate_backend($1)", driver_of(last).get_server_pid())
    await watcher.close()
    while not driver_of(last).is_closed():
        await asyncio.sleep(0.001)
    await database.ping()
    await fill(database)
    assert sum(each is other for each in others for other in database.pool._idle) == POOL_SIZE - 1
    await database.close()


async def test_no_request_fails_because_of_connections_from_before_a_restart(tmp_path):
    with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as postgres:
        database = Database(postgres.addresses.serving, pool_size=POOL_SIZE)
        await upgrade(database, postgres.addresses.migrating)
        ledger = Ledger(database, Guard())
        await run(ledger, SetStock("A", "main", 1000, None, None, None))
        await fill(database)
        await restart(postgres, tmp_path)
        before = conflicts("connection_lost")
        for n in range(POOL_SIZE):
            assert (await run(ledger, reserve(n))).effect == "created"
        assert conflicts("connection_lost") == before
        await database.close()


async def restart(postgres: EmbeddedPostgres, directory: Path) -> None:
    kill_all(find_processes(directory / "postgresql"))
    while not postgres.ensure_running():
        await asyncio.sleep(0.05)


class Reader:
    """A read whose session is ended midway a number of times."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.attempts = 0

    async def read(self, connection: Any) -> int:
        self.attempts += 1
        if self.attempts <= self.deaths:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return int(await connection.scalar(text("SELECT 42")))


async def test_a_read_whose_connection_dies_is_repeated_once(database):
    once, twice = Reader(deaths=1), Reader(deaths=2)
    assert await database.read(once.read) == 42
    with pytest.raises(StoreUnavailable, match="connection_lost"):
        await database.read(twice.read)
    assert (once.attempts, twice.attempts) == (2, 2)
