"""PgBouncer between the service and PostgreSQL, with fewer sessions than clients.

Each transaction may run in another session. Debian's version does not support prepared statements.
"""

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from db.session.configuration import INTRODUCTION, relied_on
from db.session.database import Database, LockTimeout, Timeouts
from db.session.driver import Driver, examine
from db.session.fitness import concerns, granted_connections
from db.strategies import open_strategy
from db.strategies.guard import Guard
from service.domain.commands import SetStock
from service.domain.errors import Contention, OutcomeUnknown, Unavailable
from service.engine.ledger import Ledger
from tests.brokers import running_pgbouncer
from tests.conftest import Service, running_service
from tests.faults.proxy import COMMIT, Fault, proxy
from tests.faults.test_lost_connections import effects, run
from tests.patient import PATIENCE
from tests.preloaded import run_command
from tests.roles import as_superuser
from tests.server import running_server
from tests.test_coalescer import reserve

IGNORED = ",".join([*INTRODUCTION, *relied_on(Timeouts())])
"""The `ignore_startup_parameters` that the error message recommends."""

REFUSING = pytest.mark.parametrize("ignored", ["", IGNORED], ids=["refusing", "ignoring"])


@pytest.fixture
def pooled_url(database_url: str) -> Iterator[str]:
    """The test's database through a PgBouncer in transaction mode with three sessions."""
    with running_pgbouncer(database_url) as url:
        yield url


@contextmanager
def pooled(database_url: str, **settings: str | float) -> Iterator[Database]:
    with running_pgbouncer(database_url, **settings) as url:
        yield Database(url, pool_size=4, timeouts=PATIENCE)


async def shop(service: Service, name: str) -> Counter[int]:
    """Send requests of every kind at once, eight times; count the answers by their status.

    The number of reads at once does not exceed the places that the pool has for them.
    """
    answers: Counter[int] = Counter()
    for round_ in range(8):
        several = await asyncio.gather(
            *(service.reserve(f"{name}{round_}{n}", ("A", 1), hold_seconds=1) for n in range(12)),
            service.client.get("/v1/stock/A/main"),
            service.client.get("/v1/reservations?limit=5&sku=A"),
            service.client.get("/v1/stock?sku_prefix=A"),
            service.client.get("/v1/audit"),
            service.client.get("/health/ready"),
        )
        answers += Counter(answer.status_code for answer in several)
    return answers


@REFUSING
@pytest.mark.usefixtures("patient")
async def test_two_services_share_three_sessions_and_no_request_is_refused(database_url, ignored):
    with running_pgbouncer(database_url, ignore_startup_parameters=ignored) as url:
        async with running_service(url) as one, running_service(url) as other:
            await one.stock("A", 1000)
            both = await asyncio.gather(shop(one, "one"), shop(other, "other"))
            assert [counted.keys() for counted in both] == [{200, 201}] * 2
            async with asyncio.timeout(60):
                while await one.on_hand("A") != (1000, 0):  # every hold has expired
                    await asyncio.sleep(0.05)


async def test_the_first_connections_can_all_be_made_at_once(database_url):
    """Each connection examines its session, and so does SQLAlchemy."""
    for _ in range(3):
        with pooled(database_url) as database:
            await asyncio.gather(*(see_several_things(database, n) for n in range(12)))
            await database.close()


async def see_several_things(database: Database, number: int) -> None:
    """Run several kinds of statements whose results can't be confused."""

    async def work(connection: Any) -> None:
        for n in range(number, number + 3):
            assert await connection.scalar(text("SELECT CAST(:n AS int)"), {"n": n}) == n
            driver = connection.sync_connection.connection.driver_connection
            ((one, two),) = await driver.run("SELECT $1::text, $2::int", str(n), n)
            assert (one, two) == (str(n), n)
            assert await driver.run("SELECT 1 WHERE false") == []

    await database.read(work, is_urgent=True)


@pytest.mark.usefixtures("patient")
async def test_no_statement_is_prepared_outside_a_transaction(pooled_url):
    """Outside a transaction the next message could reach another session."""
    prepare = Driver.prepare

    async def watched(self: Driver, *arguments: Any, **named: Any) -> Any:
        assert self.is_in_transaction()
        assert named["name"] == ""
        return await prepare(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patched:  # the audit after the test needs the original
        patched.setattr(Driver, "prepare", watched)
        async with running_service(pooled_url) as service:
            await service.stock("A", 1000)
            assert (await shop(service, "watched")).keys() == {200, 201}


async def test_the_settings_apply_to_a_transaction_and_do_not_stay_in_its_session(database_url):
    """Other clients use the same session, so a setting must end with its transaction."""
    with running_pgbouncer(database_url, default_pool_size=2) as url:
        database = Database(url, pool_size=3, timeouts=Timeouts(lock=0.2))
        ledger = Ledger(database, Guard())
        await run(ledger, SetStock("A", "main", 10, None, None, None))
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute("SELECT FROM stock WHERE sku = 'A' FOR UPDATE")
            with pytest.raises(LockTimeout):
                await database.transact(lock_stock)
        await holder.close()
        other = await asyncpg.connect(url, statement_cache_size=0)
        for _ in range(10):
            names = list(relied_on(Timeouts()))
            query = "SELECT name FROM pg_settings WHERE name = ANY($1) AND setting <> reset_val"
            assert {row["name"] for row in await other.fetch(query, names)} <= {"TimeZone"}
        await other.close()
        await database.close()


async def lock_stock(transaction: Any) -> None:
    await transaction.connection.execute(text("SELECT FROM stock WHERE sku = 'A' FOR UPDATE"))


@pytest.mark.parametrize("strategy", ["version", "pessimistic", "serializable", "advisory"])
async def test_the_other_strategies_keep_the_books_balanced_through_a_pooler(pooled_url, strategy):
    one, other = (Database(pooled_url, pool_size=4, timeouts=PATIENCE) for _ in range(2))
    ledgers = [Ledger(database, open_strategy(strategy)) for database in (one, other)]
    await run(ledgers[0], SetStock("A", "main", 5, None, None, None))
    outcomes = await asyncio.gather(
        *(run(ledgers[n % 2], reserve(n)) for n in range(12)), return_exceptions=True
    )
    assert sum(getattr(outcome, "effect", None) == "created" for outcome in outcomes) == 5
    for database in (one, other):
        await database.close()


@pytest.mark.parametrize("action", ["cut", "swallow"])
async def test_a_commit_that_gets_no_answer_is_settled(pooled_url, database_url, action):
    """Another session settles it if the session has the history that was noted at BEGIN."""
    async with proxy(pooled_url) as wire:
        database = Database(wire.url, pool_size=3)
        ledger = Ledger(database, Guard())
        await run(ledger, SetStock("A", "main", 10, None, None, None))
        wire.fault = Fault(action, at=COMMIT)
        outcome = await run(ledger, reserve(1), chains=True)
        assert (outcome.effect, wire.struck) == ("created", 1)
        await database.close()
    assert await effects(database_url) == 1


async def test_a_session_of_another_history_settles_no_commit(pooled_url, monkeypatch):
    async with proxy(pooled_url) as wire:
        database = Database(wire.url, pool_size=3, timeouts=Timeouts(settle=0.5))
        ledger = Ledger(database, Guard())
        await run(ledger, SetStock("A", "main", 10, None, None, None))
        await fill_with_old_history(database, monkeypatch)
        wire.fault = Fault("cut", at=COMMIT)
        with pytest.raises(OutcomeUnknown):
            await run(ledger, reserve(1))
        assert (await run(ledger, reserve(1))).effect == "created"
        await database.close()


async def fill_with_old_history(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the open connection note a history that differs from the history of later sessions."""
    connection = await database.pool.take()
    driver = connection.sync_connection.connection.driver_connection
    driver.preamble = driver.preamble.replace("system_identifier", "'an older cluster'")
    await database.pool.give_back(connection)


async def test_requests_survive_the_end_of_sessions_behind_the_pooler(database_url):
    """By default PgBouncer waits 15 seconds after a session ends during its login."""
    with running_pgbouncer(database_url, server_login_retry=0.1) as url:
        await buy_while_sessions_end(url, database_url)
    assert await effects(database_url) == 100


async def buy_while_sessions_end(url: str, database_url: str) -> None:
    async with running_service(url) as service:
        await service.stock("A", 1000)

        async def insist(n: int) -> int:
            while (answer := await service.reserve(str(n), ("A", 1))).status_code == 503:
                assert answer.json()["same_seq"]
                await asyncio.sleep(0.05)
            return answer.status_code

        async with asyncio.timeout(60), asyncio.TaskGroup() as others:
            others.create_task(end_sessions(database_url))
            for first in range(0, 100, 10):
                statuses = await asyncio.gather(*map(insist, range(first, first + 10)))
                assert set(statuses) <= {200, 201}
                reads = await asyncio.gather(
                    *(service.client.get("/v1/stock/A/main") for _ in range(5))
                )
                assert {answer.status_code for answer in reads} <= {200, 503}


async def end_sessions(url: str) -> None:
    """End a random session sixty times. The limit lets a slow machine finish its requests."""
    connection = await asyncpg.connect(as_superuser(url))
    for _ in range(60):
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend' ORDER BY random() LIMIT 1"
        )
        await asyncio.sleep(0.02)
    await connection.close()


async def test_no_request_fails_when_the_pooler_closes_idle_connections(database_url):
    with pooled(database_url, client_idle_timeout=1) as database:
        ledger = Ledger(database, Guard())
        await run(ledger, SetStock("A", "main", 10, None, None, None))
        connections = [await database.pool.take() for _ in range(4)]
        for connection in connections:
            await database.pool.give_back(connection)
        drivers = [each.sync_connection.connection.driver_connection for each in connections]
        async with asyncio.timeout(30):
            while not all(driver.is_closed() for driver in drivers):
                await asyncio.sleep(0.02)
        outcomes = await asyncio.gather(*(run(ledger, reserve(n)) for n in range(4)))
        assert [outcome.effect for outcome in outcomes] == ["created"] * 4
        await database.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pooler_is_reported_at_the_start(database_url, mode):
    with pooled(database_url, pool_mode=mode) as database:
        told = await concerns(database)
        assert any("through a pooler" in each for each in told)
        assert await granted_connections(database) is None
        await database.close()


async def test_a_pooler_that_reports_the_right_process_id_is_recognized_by_lost_settings(
    database_url, monkeypatch
):
    async def deceived(driver: Driver, wanted: Any) -> Any:
        found = await examine(driver, wanted)
        return replace(found, process_id=driver.get_server_pid())

    monkeypatch.setattr("db.session.connector.examine", deceived)
    with pooled(database_url, ignore_startup_parameters=IGNORED) as database:
        await see_several_things(database, 1)
        assert database.connector.is_shared
        await database.close()


def holdfast(*command: str, url: str, directory: Path) -> subprocess.CompletedProcess[str]:
    settings = {"HOLDFAST_DATABASE_URL": url, "HOLDFAST_DATA_DIR": str(directory)}
    return run_command(*command, environment={**os.environ, **settings})


@REFUSING
async def test_serve_and_the_commands_work_with_an_empty_database(postgres_url, ignored, tmp_path):
    """The commands are migrations, keys, imports and the audit."""
    name = f"empty_{os.getpid()}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE DATABASE {name}")
    with running_pgbouncer(
        postgres_url.rsplit("/", 1)[0] + f"/{name}", ignore_startup_parameters=ignored
    ) as url:
        with running_server(url, workers=2) as server:
            assert "through a pooler" in server.log.read_text()
            created = holdfast("key", "create", "--scope", "admin", url=url, directory=tmp_path)
            headers = {"Authorization": f"Bearer {created.stdout.split()[-1]}"}
            async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
                await client.post(
                    "/v1/imports?job=j",
                    content="sku,location,available\nA,main,100\n",
                    headers={"Content-Type": "text/csv"},
                )
                answers = await asyncio.gather(*(buy(client, n) for n in range(60)))
            assert Counter(answers) == {201: 60}
        for command in ("db upgrade", "key list", "audit"):
            done = holdfast(*command.split(), url=url, directory=tmp_path)
            assert done.returncode == 0, done.stderr
        assert "balanced: 1 stock rows, 60 reservations" in done.stdout
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def buy(client: httpx.AsyncClient, n: int) -> int:
    body = {"seq": str(n), "lines": [{"sku": "A", "quantity": 1}]}
    return (await client.post("/v1/reservations", json=body)).status_code


async def test_a_pooler_in_statement_mode_is_refused_with_a_one_line_error(database_url, tmp_path):
    with running_pgbouncer(database_url, pool_mode="statement") as url:
        run = await asyncio.to_thread(holdfast, "serve", url=url, directory=tmp_path)
    assert run.returncode == 1
    assert "transaction blocks not allowed in statement pooling mode" in run.stderr
    assert run.stderr.count("\n") == 1


async def test_the_wait_for_a_session_of_the_pooler_is_bounded(database_url):
    """Another client has the only session."""
    with running_pgbouncer(database_url, default_pool_size=1) as url:
        other = await asyncpg.connect(url, statement_cache_size=0)
        database = Database(url, pool_size=3, timeouts=Timeouts(pool=0.1, connect=0.3))
        ledger = Ledger(database, Guard())
        async with other.transaction():
            await other.execute("SELECT 1")
            with pytest.raises((Unavailable, Contention)):
                await run(ledger, SetStock("A", "main", 10, None, None, None))
        await other.close()
        assert (await run(ledger, SetStock("A", "main", 10, None, None, None))).effect == "created"
        await database.close()
