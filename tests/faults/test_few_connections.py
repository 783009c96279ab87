"""A server that grants fewer connections than the pool asks for; reads that would use them all."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from db.session.address import read_address
from db.session.configuration import Timeouts
from db.session.database import Database, StoreUnavailable
from db.session.fitness import granted_connections
from db.strategies.guard import Guard
from service.domain.commands import SetStock
from service.engine.ledger import Ledger
from service.engine.sweeper import sweep
from service.ops.server import fair_pool_size
from service.settings import Settings
from tests.conftest import Service, running_service
from tests.faults.test_lost_connections import run
from tests.roles import as_superuser
from tests.server import running_server
from tests.test_coalescer import reserve


class Role:
    """A role whose number of connections is limited, and the address by which it connects."""

    def __init__(self, owner: asyncpg.Connection, name: str, url: str) -> None:
        self.owner = owner
        self.name = name
        self.url = url

    async def may_have(self, connections: int) -> None:
        await self.owner.execute(f"ALTER ROLE {self.name} CONNECTION LIMIT {connections}")


@asynccontextmanager
async def role_with(database_url: str, connections: int) -> AsyncIterator[Role]:
    name = f"role_{uuid.uuid4().hex}"
    owner = await asyncpg.connect(as_superuser(database_url))
    await owner.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT {connections};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"
    )
    address = read_address(database_url)
    host, port = address.hosts[0]
    try:
        yield Role(
            owner, name, f"postgresql://{name}:secret@{host}:{port}/{address.parameters['dbname']}"
        )
    finally:
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await owner.close()


async def ask_for_everything(service: Service, round_: str) -> set[int]:
    answers = await asyncio.gather(
        *(service.reserve(f"{round_}{n}", ("A", 1)) for n in range(24)),
        *(service.client.get("/v1/stock/A/main") for _ in range(4)),
        *(service.client.get("/v1/reservations?limit=5") for _ in range(4)),
        service.client.get("/v1/audit"),
        service.client.get("/health/ready"),
    )
    return {answer.status_code for answer in answers}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("granted", [1, 2, 4])
async def test_no_request_fails_if_a_role_has_fewer_connections_than_the_pool_asks_for(
    database_url, granted
):
    async with (
        role_with(database_url, granted) as role,
        running_service(role.url, pool_size=8) as service,
    ):
        await service.stock("A", 1000)
        for round_ in "abc":
            assert await ask_for_everything(service, round_) == {200, 201}
        assert service.database.pool.size == granted


async def test_a_pool_grows_again_when_the_server_grants_more(database_url, monkeypatch):
    async with role_with(database_url, 2) as role:
        database = Database(role.url, pool_size=6)
        await hold_all(database, 6)
        assert database.pool.size == 2
        await role.may_have(10)
        await hold_all(database, 6)
        assert database.pool.size == 2  # after a refusal, the pool does not ask again at once
        monkeypatch.setattr("db.session.pool.GROW_SECONDS", -1.0)
        database.pool._grow_at = 0.0
        await hold_all(database, 6)
        assert database.pool.size == 6
        await database.close()


async def hold_all(database: Database, callers: int) -> None:
    """Make a number of callers use connections at the same time, as far as the pool allows."""

    async def hold() -> None:
        connection = await database.pool.take()
        await connection.execute(text("SELECT pg_sleep(0.01)"))
        await database.pool.give_back(connection)

    await asyncio.gather(*(hold() for _ in range(callers)))


async def test_requests_wait_for_connections_that_others_use_briefly(database_url):
    async with role_with(database_url, 1) as role:
        other = await asyncpg.connect(role.url)
        database = Database(role.url, pool_size=4, timeouts=Timeouts(pool=0.05, connect=30))
        waiting = [asyncio.create_task(database.ping()) for _ in range(8)]
        refused_at = set()
        async with asyncio.timeout(20):
            while len(refused_at) < 8:  # these take longer than the timeout of the pool
                await asyncio.sleep(0.001)
                refused_at.add(database.pool._grow_at)
        assert not any(task.done() for task in waiting)
        await other.close()
        await asyncio.gather(*waiting)
        await database.close()


async def test_a_server_that_grants_no_connection_is_unavailable_after_the_timeout(database_url):
    async with role_with(database_url, 0) as role:
        database = Database(role.url, pool_size=4, timeouts=Timeouts(connect=0.5))
        with pytest.raises(StoreUnavailable):
            await database.ping()
        await role.may_have(1)
        await database.ping()
        await database.close()


async def test_a_busy_lane_gives_its_only_connection_to_the_requests_that_wait(database_url):
    """If every COMMIT began the next transaction, the lane would never release the connection."""
    async with role_with(database_url, 1) as role:
        database = Database(role.url, pool_size=4)
        ledger = Ledger(database, Guard())
        await run(ledger, SetStock("A", "main", 10**6, None, None, None))
        may_end = asyncio.Event()

        async def reserve_on_and_on() -> int:
            count = 0
            while not may_end.is_set():
                await run(ledger, reserve(f"on and on {count}"), chains=True)
                count += 1
            return count

        busy = asyncio.create_task(reserve_on_and_on())
        for _ in range(50):
            await database.ping()
        may_end.set()
        assert await busy > 0
        await database.close()


async def test_reads_leave_half_of_the_pool_to_other_work(database_url):
    """The reads are slow, and there are more of them than connections in the pool."""
    async with running_service(database_url, pool_size=4, sweeps=False) as service:
        await service.stock("A", 10)
        inside, may_end = [], asyncio.Event()

        async def read(connection: Any) -> None:
            inside.append(connection)
            await may_end.wait()

        reads = [asyncio.create_task(service.database.read(read)) for _ in range(20)]
        while len(inside) < 2:
            await asyncio.sleep(0)
        coalescer = service.app.worker.coalescer
        # A lane would use this connection; now one connection is left.
        held = [await service.database.pool.take()]
        assert (await service.reserve("1", ("A", 1))).status_code == 201
        assert await sweep(service.database, coalescer) == 0
        unknown = {"Authorization": "Bearer hf_unknown"}
        assert (await service.client.get("/v1/stock", headers=unknown)).status_code == 401
        assert (await service.client.get("/health/ready")).status_code == 200
        form = {"key": "hf_unknown"}
        assert (await service.client.post("/sign-in", data=form)).status_code != 503
        await service.database.pool.give_back(held.pop())
        assert (await service.client.get("/v1/stock")).status_code == 503
        assert len(inside) == 2
        may_end.set()
        ended = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(each) for each in ended} <= {type(None), StoreUnavailable}


@pytest.mark.parametrize(
    ("granted", "workers", "share"),
    [(None, 9, 8), (97, 2, 8), (17, 2, 8), (16, 2, 7), (4, 1, 3), (4, 2, 1), (1, 1, 1), (2, 9, 1)],
)
def test_workers_share_the_connections_of_a_role(granted, workers, share):
    assert fair_pool_size(Settings(pool_size=8, workers=workers), granted) == share


async def test_two_workers_can_serve_with_four_connections_of_a_role(database_url):
    async with role_with(database_url, 4) as role:
        database = Database(role.url, pool_size=1)
        assert await granted_connections(database) == 4
        await database.close()
        await role.owner.execute(f"GRANT CREATE ON SCHEMA public TO {role.name}")
        with running_server(role.url, workers=2, module="tests.patient") as server:
            import httpx  # noqa: PLC0415 - the other tests run their service in their own process

            async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as client:
                put = await client.put(
                    "/v1/stock/A/main", json={"available": 100}, headers={"If-None-Match": "*"}
                )
                assert put.status_code == 201
                answers = await asyncio.gather(
                    *(client.get("/v1/stock/A/main") for _ in range(100))
                )
            assert {answer.status_code for answer in answers} == {200}
            assert "each gets 1" in server.log.read_text()
