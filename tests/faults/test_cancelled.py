"""Requests that are cancelled, disconnected or terminated midway leave nothing half done."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.rows import Line
from db.session.database import Database, DatabaseError, StoreUnavailable
from db.session.engine import driver_of
from db.strategies.guard import Guard
from service.domain.commands import Reserve, SetStock
from service.domain.identifiers import reservation_id
from service.engine.ledger import Ledger
from tests.server import running_server

POOL_SIZE = 4


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, pool_size=POOL_SIZE)
    ledger = Ledger(made, Guard())
    for sku in "AB":
        await ledger.execute([SetStock(sku, "main", 10_000, None, None, None)])
    yield made
    await made.close()


def both(seq: Any) -> Reserve:
    """A reservation of two lines, so that it can be half done."""
    lines = (Line("A", "main", 1), Line("B", "main", 1))
    return Reserve("us", str(seq), None, lines, 600, {}, reservation_id("us", str(seq)))


async def halves(url: str) -> int:
    """The number of reservations without exactly two lines and two movements."""
    connection = await asyncpg.connect(url)
    count = await connection.fetchval(
        "SELECT count(*) FROM reservation WHERE"
        " (SELECT count(*) FROM reservation_line WHERE reservation_id = id) <> 2"
        " OR (SELECT count(*) FROM movement WHERE reservation_id = id) <> 2"
    )
    await connection.close()
    return count


async def open_transactions(url: str) -> int:
    """Wait until no other session has an open transaction; return their number, which is then 0."""
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(10):
        while count := await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND xact_start IS NOT NULL"
        ):
            await asyncio.sleep(0.05)
    await connection.close()
    return count


async def duration(ledger: Ledger, number: int, *, fresh: bool) -> float:
    """The time that a transaction takes, on a new connection or on one from the pool."""
    if fresh:
        ledger.database.pool.distrust()
    started = time.monotonic()
    await ledger.execute([both(f"to measure/{number}")])
    return time.monotonic() - started


async def test_hundreds_of_cancelled_transactions_leave_nothing_half_done_and_a_clean_pool(
    database, database_url
):
    """The unit of work itself is cancelled, at each of its steps; no client can do that."""
    ledger = Ledger(database, Guard())
    chance = random.Random(3)
    cancelled = 0
    durations = [await duration(ledger, n, fresh=n % 2 == 0) for n in range(20)]
    fresh, warm = statistics.mean(durations[::2]), statistics.mean(durations[1::2])
    for n in range(300):
        task = asyncio.create_task(ledger.execute([both(n)]))
        await asyncio.sleep(chance.uniform(0, 2 * chance.choice([fresh, warm])))
        cancelled += task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert 100 < cancelled < 290
    assert await open_transactions(database_url) == 0
    assert await halves(database_url) == 0
    again = await ledger.execute([both(n) for n in range(300)])
    assert {outcome.effect for outcome in again} == {"unchanged", "created"}
    assert await halves(database_url) == 0
    await every_connection_works(database)


async def every_connection_works(database: Database) -> None:
    connections = [await database.pool.take() for _ in range(POOL_SIZE)]
    for connection in connections:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
        await database.pool.give_back(connection)


async def test_a_failed_transaction_does_not_count_as_committed(database):
    """PostgreSQL answers its COMMIT with ROLLBACK, which is no error for the driver."""

    async def careless(transaction: Any) -> None:
        transaction.is_empty = True
        with suppress(DBAPIError):
            await transaction.connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(DatabaseError, match="had failed before COMMIT"):
        await database.transact(careless)


STEPS = ("before load", "before apply", "after apply")


class Saboteur(Guard):
    """Ends its own session when it first reaches one step of a transaction."""

    def __init__(self, step: str, how: str, url: str) -> None:
        self.step: str | None = step
        self.how = how
        self.url = url

    async def strike(self, step: str, connection: Any) -> None:
        if self.step != step:
            return
        self.step = None
        if self.how == "terminated":
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            other = await asyncpg.connect(self.url)
            await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await other.close()
        else:  # like a network failure: there is no SQLSTATE
            driver_of(connection).terminate()

    async def load(self, connection: Any, wanted: Any, *, locked: bool) -> Any:
        await self.strike("before load", connection)
        return await super().load(connection, wanted, locked=locked)

    async def apply(self, transaction: Any, writes: Any, held: Any) -> None:
        await self.strike("before apply", transaction.connection)
        await super().apply(transaction, writes, held)
        await self.strike("after apply", transaction.connection)


@pytest.mark.parametrize("how", ["terminated", "without a SQLSTATE"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_session_that_ends_at_any_step_is_replaced_and_the_request_has_one_effect(
    database, database_url, step, how
):
    saboteur = Saboteur(step, how, database_url)
    (outcome,) = await Ledger(database, saboteur).execute([both(1)])
    assert (outcome.effect, saboteur.step) == ("created", None)
    assert await halves(database_url) == 0
    await every_connection_works(database)


async def test_a_read_whose_session_ends_in_the_middle_is_unavailable(database):
    async def read(connection: Any) -> None:
        await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)"))

    with pytest.raises(StoreUnavailable):
        await database.read(read)
    await every_connection_works(database)


async def test_idle_sessions_that_have_all_ended_are_replaced_at_once(database, database_url):
    """One failure is enough: the other sessions are not tried one after another."""
    await every_connection_works(database)
    async with database.engine.connect() as connection:
        before = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    other = await asyncpg.connect(database_url)
    await other.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'holdfast'"
    )
    await other.close()
    ledger = Ledger(database, Guard())
    outcomes = await asyncio.gather(*(ledger.execute([both(n)]) for n in range(POOL_SIZE)))
    assert [outcome.effect for (outcome,) in outcomes] == ["created"] * POOL_SIZE
    async with database.engine.connect() as connection:
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != before


def request_bytes(server: Any, seq: str) -> bytes:
    body = (
        f'{{"seq": "{seq}", "hold_seconds": 600, "lines": ['
        '{"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 1}]}'
    )
    return (
        "POST /v1/reservations HTTP/1.1\r\nHost: holdfast\r\n"
        f"Authorization: Bearer {server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def hang_up(server: Any, seq: str, chance: random.Random) -> None:
    """Send a request or a part of it; later close or reset the connection."""
    url = httpx.URL(server.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    whole = request_bytes(server, seq)
    writer.write(whole if chance.random() < 0.8 else whole[: chance.randrange(len(whole))])
    await asyncio.sleep(chance.uniform(0, 0.03))
    if chance.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


async def test_requests_of_clients_that_disconnect_are_done_completely_or_not_at_all(database_url):
    chance = random.Random(2)
    with running_server(database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as http:
            for sku in "AB":
                await http.put(
                    f"/v1/stock/{sku}/main",
                    json={"available": 10_000},
                    headers={"If-None-Match": "*"},
                )
            for first in range(0, 600, 20):
                await asyncio.gather(
                    *(hang_up(server, str(n), chance) for n in range(first, first + 20))
                )
            for n in range(600):
                lines = [{"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 1}]
                body = {"seq": str(n), "hold_seconds": 600, "lines": lines}
                assert (await http.post("/v1/reservations", json=body)).status_code in (200, 201)
        assert await open_transactions(database_url) == 0
    assert await halves(database_url) == 0
