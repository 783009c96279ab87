"""A real PostgreSQL, a fresh database for every test, and an audit of the books after it.

`HOLDFAST_TEST_DATABASE_URL` names a server to use instead; its role must be allowed to create
databases. `HOLDFAST_TEST_STRATEGY` makes every service of the tests use another strategy than
`guard`. With `HOLDFAST_TEST_POOLER` the services in this process reach their database through
PgBouncer.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import hypothesis
import pytest

from db.queries.audit import audit
from db.session.database import Database
from service.http.access.keys import new_key, store_key
from service.http.app import Application, create_app
from service.settings import Settings
from tests.brokers import (
    redis_url,
    running_pgbouncer,
    running_redis,
    running_zookeeper,
    zookeeper_hosts,
)
from tests.patient import PATIENCE
from tests.postgres import fresh_database, make_template, named, running_postgres
from tests.roles import as_superuser
from tests.slow import SLOW

__all__ = ["fresh_database", "named"]

# No test asserts a time: an example is slow where other processes use the machine.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
hypothesis.settings.register_profile(
    "unshrunk",  # for mutants: a red test is enough, the smallest example is not needed
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)

GIVEN_SERVER = os.environ.get("HOLDFAST_TEST_DATABASE_URL")
if not GIVEN_SERVER:
    os.environ.pop("HOLDFAST_DATABASE_URL", None)

TESTS = Path(__file__).parent
STRATEGY = os.environ.get("HOLDFAST_TEST_STRATEGY", "guard")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: two processes for each core, because the slow tests often wait.

    With `--fast` one for each core is as fast. A server that the caller has named has room for one.
    """
    if GIVEN_SERVER:
        return 1
    return len(os.sched_getaffinity(0)) * (1 if config.getoption("--fast") else 2)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make test-fast`."""
    parser.addoption("--fast", action="store_true", help="leave out what tests/slow.py names")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--fast`, do not even import a slow module."""
    is_slow = collection_path.parent == TESTS and collection_path.name in SLOW
    return True if is_slow and config.getoption("--fast") else None


def pytest_configure() -> None:
    """Check the list of slow modules."""
    for name in SLOW:
        assert (TESTS / name).exists(), f"tests/slow.py names {name}, which does not exist"


@pytest.fixture(scope="session")
def brokers() -> Iterator[dict[str, Callable[[], dict[str, str]]]]:
    """For each strategy that needs a lock server, a function that starts it once and returns the
    settings for it."""
    with ExitStack() as stack:

        @cache
        def redis() -> dict[str, str]:
            return {"redis_url": redis_url(stack.enter_context(running_redis()))}

        @cache
        def zookeeper() -> dict[str, str]:
            return {"zookeeper_hosts": zookeeper_hosts(stack.enter_context(running_zookeeper()))}

        yield {"redis": redis, "zookeeper": zookeeper}


@pytest.fixture(scope="session", autouse=True)
def chosen_strategy(brokers: dict[str, Callable[[], dict[str, str]]]) -> None:
    """Make every service of the tests use the strategy of `HOLDFAST_TEST_STRATEGY`."""
    for name, value in {"strategy": STRATEGY, **settings_of(STRATEGY, brokers)}.items():
        os.environ[f"HOLDFAST_{name.upper()}"] = value


def settings_of(strategy: str, brokers: dict[str, Callable[[], dict[str, str]]]) -> dict[str, str]:
    """The settings that a strategy needs; its lock server runs from then on."""
    return brokers[strategy]() if strategy in brokers else {}


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of this process's PostgreSQL, which holds a migrated template.

    Its role may create databases.
    """
    if GIVEN_SERVER:
        asyncio.run(make_template(GIVEN_SERVER))
        yield GIVEN_SERVER
        return
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with running_postgres(shared, own) as url:
        yield url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A fresh database; the books must balance when the test is over."""
    async with fresh_database(postgres_url) as url:
        yield url
        await assert_books_balance(url)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool of connections to the fresh database."""
    opened = Database(database_url, pool_size=4)
    yield opened
    await opened.close()


async def assert_books_balance(url: str) -> None:
    database = Database(url, pool_size=1, timeouts=PATIENCE)
    try:
        found = await audit(database, seconds_max=60)
    finally:
        await database.close()
    assert found.drift == []


@dataclass
class Service:
    """A service in this process, reached without a network but with real concurrency."""

    app: Application
    client: httpx.AsyncClient
    database: Database
    url: str

    async def key(self, source: str, *scopes: str) -> dict[str, str]:
        """The headers of a new key."""
        value = new_key()
        await store_key(self.database, value, source, list(scopes))
        return {"Authorization": f"Bearer {value}"}

    async def stock(self, sku: str, available: int, location: str = "main", **more: Any) -> None:
        """Create a stock row."""
        response = await self.client.put(
            f"/v1/stock/{sku}/{location}",
            json={"available": available, **more},
            headers={"If-None-Match": "*"},
        )
        assert response.status_code == 201, response.text

    async def reserve(self, seq: str, *lines: tuple[str, int], **more: Any) -> httpx.Response:
        """Ask for a reservation of (sku, quantity) lines."""
        body = {
            "seq": seq,
            "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines],
            **more,
        }
        return await self.client.post("/v1/reservations", json=body)

    async def on_hand(self, sku: str, location: str = "main") -> tuple[int, int]:
        """(available, held) of a stock row."""
        body = (await self.client.get(f"/v1/stock/{sku}/{location}")).json()
        return body["available"], body["held"]

    async def sql(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run SQL behind the service's back as the superuser, who may do everything."""
        connection = await asyncpg.connect(as_superuser(self.url))
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()


@asynccontextmanager
async def alive(app: Application) -> AsyncIterator[None]:
    """Run an application's lifespan in a task of its own.

    It must begin and end in the same task, and pytest begins and ends a fixture in two.
    """
    started, ending = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await ending.wait()

    task = asyncio.create_task(live())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            task.result()
        yield
    finally:
        ending.set()
        await task


@contextmanager
def reached(url: str) -> Iterator[str]:
    """The address under which services reach a database: its own, or that of a pooler."""
    if os.environ.get("HOLDFAST_TEST_POOLER"):
        with running_pgbouncer(url) as through:
            yield through
    else:
        yield url


IDLE_APPLICATIONS: list[Application] = []


@contextmanager
def application(settings: Settings, *, sweeps: bool) -> Iterator[Application]:
    """An application that no other service uses; to register all routes anew would be slow."""
    app = IDLE_APPLICATIONS.pop() if IDLE_APPLICATIONS else create_app(settings)
    app.settings, app.sweeps = settings, sweeps
    yield app
    IDLE_APPLICATIONS.append(app)


@asynccontextmanager
async def running_service(
    url: str, *, sweeps: bool = True, **settings: Any
) -> AsyncIterator[Service]:
    """Start a service in this process. Its client has a key of source `shop-eu`, scope admin."""
    with (
        reached(url) as database_url,
        application(Settings(database_url=database_url, **settings), sweeps=sweeps) as app,
    ):
        async with alive(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://holdfast") as client:
                service = Service(app, client, app.worker.database, url)
                client.headers.update(await service.key("shop-eu", "admin"))
                yield service


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the services of this process wait long for the database: the test is not about that."""
    monkeypatch.setattr("db.session.database.Timeouts", lambda: PATIENCE)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service on a fresh database."""
    async with running_service(database_url) as started:
        yield started


@pytest.fixture
async def service_without_sweeper(database_url: str) -> AsyncIterator[Service]:
    """A service whose sweeper is dead."""
    async with running_service(database_url, sweeps=False) as started:
        yield started


REAL_ORDERS = Path(__file__).parents[2] / "shared" / "data"
