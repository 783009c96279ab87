"""Locks in Redis and ZooKeeper are lost, and no unit of stock is.

A lock on another server can be lost while its holder still relies on it. Then the fence of the row
refuses the late writer, and the version of the row refuses any other conflicting write.
"""

import asyncio
import itertools
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from kazoo.client import KazooClient

from db.rows import Line, Wanted
from db.session.database import Conflict, Database, LockTimeout, StoreUnavailable, Transaction
from db.strategies import open_strategy
from db.strategies import redis as redis_strategy
from db.strategies import zookeeper as zookeeper_strategy
from db.strategies.guard import Guard
from db.strategies.strategy import HeldLocks
from service.domain.commands import Command, Outcome, Reserve, SetStock, wanted_by
from service.domain.identifiers import reservation_id
from service.domain.planner import plan
from service.engine.ledger import Ledger
from tests.brokers import (
    Broker,
    redis_url,
    running_redis,
    running_zookeeper,
    zookeeper_hosts,
)
from tests.conftest import Service, running_service
from tests.patient import PATIENCE
from tests.server import Server, running_server
from tests.test_guards import without

LOCK_A = "holdfast:stock:A:main"
WITHOUT_FENCE = without("stock_changed", "new.fence IS NULL OR stock.fence <= new.fence")


@dataclass
class Locks:
    """A lock server of the test, which may break it."""

    name: str
    broker: Broker

    @property
    def settings(self) -> dict[str, str]:
        if self.name == "redis":
            return {"redis_url": redis_url(self.broker)}
        return {"zookeeper_hosts": zookeeper_hosts(self.broker)}

    def open(self) -> Any:
        return open_strategy(self.name, **self.settings)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        """A strategy with connections of its own, as in another process."""
        strategy = self.open()
        try:
            yield strategy
        finally:
            await strategy.close()

    async def lose(self, strategy: Any) -> None:
        """Release every lock of that strategy without its knowledge."""
        if self.name == "redis":
            await self.flush()
        else:
            await asyncio.to_thread(expire, strategy._client, zookeeper_hosts(self.broker))

    async def flush(self) -> None:
        client = redis.asyncio.Redis.from_url(redis_url(self.broker))
        await client.flushall()
        await client.aclose()

    def restart(self) -> None:
        self.broker.kill()
        self.broker.start()


def expire(client: KazooClient, hosts: str) -> None:
    """End the session of another client: any client that knows its id and password may do so."""
    thief = KazooClient(hosts=hosts, client_id=client.client_id)
    thief.start()
    thief.stop()
    thief.close()


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Locks]:
    with running_redis() as broker:
        yield Locks("redis", broker)


@pytest.fixture(scope="module")
def own_zookeeper() -> Iterator[Locks]:
    with running_zookeeper() as broker:
        yield Locks("zookeeper", broker)


@pytest.fixture(params=["redis", "zookeeper"])
def locks(request: Any) -> Locks:
    return request.getfixturevalue(f"own_{request.param}")


@pytest.fixture
async def service(database_url: str, locks: Locks) -> AsyncIterator[Service]:
    """A service that uses these locks, with a hundred units of A."""
    async with running_service(database_url, strategy=locks.name, **locks.settings) as started:
        await insist(lambda: put(started, "A", 100))
        yield started


async def put(service: Service, sku: str, available: int) -> int:
    answer = await service.client.put(
        f"/v1/stock/{sku}/main", json={"available": available}, headers={"If-None-Match": "*"}
    )
    return answer.status_code


async def buy(service: Service, seq: Any, sku: str = "A") -> int:
    return (await service.reserve(f"{seq}", (sku, 1))).status_code


async def insist(ask: Callable[[], Awaitable[int]]) -> int:
    """Repeat the request while the answer is 503, as a client does."""
    async with asyncio.timeout(60):
        while (status := await ask()) == 503:
            await asyncio.sleep(0.02)
    return status


@pytest.fixture
async def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database with nine units of A. Tests that use it wait long for it and for lock servers."""
    monkeypatch.setattr(redis_strategy, "SOCKET_SECONDS_MAX", PATIENCE.connect)
    monkeypatch.setattr(zookeeper_strategy, "START_SECONDS_MAX", PATIENCE.connect)
    opened = Database(database_url, pool_size=4, timeouts=PATIENCE)
    await Ledger(opened, Guard()).execute([SetStock("A", "main", 9, None, None, None)])
    yield opened
    await opened.close()


def order(seq: str) -> Reserve:
    lines = (Line("A", "main", 1),)
    return Reserve("us", seq, None, lines, None, {}, reservation_id("us", seq))


A = Wanted(stock={("A", "main")})


async def write(database: Database, strategy: Any, held: HeldLocks, command: Command) -> Outcome:
    """Do once what the ledger does while it holds the locks."""

    async def work(transaction: Transaction) -> Outcome:
        wanted = wanted_by([command])
        snapshot = await strategy.load(transaction.connection, wanted, locked=False)
        planned = plan(snapshot, [command], pins_rows=strategy.pins_rows)
        await strategy.apply(transaction, planned.writes, held)
        return planned.outcomes[0]

    return await database.transact(work)


async def execute(database: Database, strategy: Any, command: Command) -> Outcome:
    return (await Ledger(database, strategy).execute([command]))[0]


async def write_late(database: Database, locks: Locks) -> Outcome:
    """Write after a pause between the lock and the first read, in which another writer wrote.

    The rows that are read are current then, so that only the fence can refuse the late writer.
    """
    async with locks.opened() as late, locks.opened() as quick, late.hold(database, A) as held:
        await locks.lose(late)
        assert (await execute(database, quick, order("quick"))).effect == "created"
        held.is_lost = False  # a paused process has not noticed it
        return await write(database, late, held, order("late"))


async def test_a_writer_that_comes_after_its_lock_is_refused_by_its_fence(database, locks):
    with pytest.raises(Conflict) as conflict:
        await write_late(database, locks)
    assert conflict.value.kind == "stock_changed"


async def test_without_the_fence_the_late_writer_would_write(database, locks, monkeypatch):
    WITHOUT_FENCE(monkeypatch)
    assert (await write_late(database, locks)).effect == "created"


async def test_a_batch_that_came_too_late_runs_again_under_a_new_lock(
    database, own_redis, monkeypatch
):
    async with own_redis.opened() as late, own_redis.opened() as quick:
        load = late.load
        pauses = iter([True])

        async def paused(*arguments: Any, **options: Any) -> Any:
            if next(pauses, False):
                await own_redis.lose(late)
                await execute(database, quick, order("quick"))
            return await load(*arguments, **options)

        monkeypatch.setattr(late, "load", paused)
        assert (await execute(database, late, order("late"))).effect == "created"
        assert next(pauses, None) is None


async def test_a_lock_that_is_known_to_be_lost_allows_no_write(database, locks, monkeypatch):
    monkeypatch.setattr(redis_strategy, "EXPIRE_SECONDS", 0.3)  # it checks three times in that time
    async with locks.opened() as strategy:
        async with strategy.hold(database, A) as held:
            await locks.lose(strategy)
            async with asyncio.timeout(10):
                while not held.is_lost:
                    await asyncio.sleep(
                        0.01
                    )  # until the lock server has noticed; bounded by the timeout
            with pytest.raises(Conflict) as conflict:
                await write(database, strategy, held, order("late"))
        assert conflict.value.kind == "lock_lost"
        assert (await insist_on(database, strategy, order("late"))).effect == "created"


async def insist_on(database: Database, strategy: Any, command: Command) -> Outcome:
    """Write as soon as the lock server can be reached."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreUnavailable, LockTimeout):
                async with strategy.hold(database, wanted_by([command])) as held:
                    return await write(database, strategy, held, command)
            await asyncio.sleep(0.02)


async def test_a_suspended_session_holds_no_lock(database, own_zookeeper):
    """The server can't be reached and may have granted the lock to another client."""
    async with own_zookeeper.opened() as strategy:
        async with strategy.hold(database, A) as held:
            own_zookeeper.broker.kill()
            try:
                async with asyncio.timeout(10):
                    while not held.is_lost:
                        await asyncio.sleep(0.01)  # kazoo's thread notices
                with pytest.raises(Conflict):
                    await write(database, strategy, held, order("late"))
                with pytest.raises(StoreUnavailable):
                    async with strategy.hold(database, A):
                        pass
            finally:
                own_zookeeper.broker.start()
        assert (await insist_on(database, strategy, order("late"))).effect == "created"


async def token(database: Database, strategy: Any) -> int:
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreUnavailable, LockTimeout):
                async with strategy.hold(database, A) as held:
                    return held.fences["A", "main"]
            await asyncio.sleep(0.02)


async def test_tokens_only_grow_from_holder_to_holder(database, locks):
    async with locks.opened() as one, locks.opened() as other:
        tokens = [await token(database, each) for each in [one, other] * 3]
        await locks.lose(one)
        tokens.append(await token(database, one))
        locks.restart()
        tokens += [await token(database, each) for each in (one, other)]
    assert tokens == sorted(set(tokens))


async def test_tokens_grow_while_the_clock_of_redis_stands_still(database, own_redis, monkeypatch):
    still = redis_strategy.ACQUIRE.replace("redis.call('TIME')", "{7, 0}")
    assert still != redis_strategy.ACQUIRE
    monkeypatch.setattr(redis_strategy, "ACQUIRE", still)
    await own_redis.flush()
    async with own_redis.opened() as strategy:
        assert [await token(database, strategy) for _ in range(3)] == [7000000, 7000001, 7000002]


async def release_late(database: Database, locks: Locks) -> bytes | None:
    """Release a lock that another holder has taken meanwhile; return the value of the lock then."""
    client = redis.asyncio.Redis.from_url(redis_url(locks.broker))
    async with locks.opened() as late, locks.opened() as quick, AsyncExitStack() as stack:
        async with late.hold(database, A):
            await locks.flush()
            await stack.enter_async_context(quick.hold(database, A))
            value = await client.get(LOCK_A)
        assert value is not None
        left: bytes | None = await client.get(LOCK_A)
        await client.aclose()
        assert left in (None, value)
        return left


async def test_a_late_release_leaves_the_lock_of_the_next_holder(database, own_redis):
    assert await release_late(database, own_redis) is not None


async def test_without_the_comparison_a_late_release_would_delete_the_next_holders_lock(
    database, own_redis, monkeypatch
):
    careless = redis_strategy.RELEASE.replace("redis.call('GET', KEYS[i]) == ARGV[1]", "true")
    assert careless != redis_strategy.RELEASE
    monkeypatch.setattr(redis_strategy, "RELEASE", careless)
    assert await release_late(database, own_redis) is None


async def test_a_live_holder_renews_its_lock(database, own_redis, monkeypatch):
    monkeypatch.setattr(redis_strategy, "EXPIRE_SECONDS", 0.3)
    monkeypatch.setattr(redis_strategy, "WAIT_SECONDS_MAX", 0.9)
    async with (
        own_redis.opened() as one,
        own_redis.opened() as other,
        one.hold(database, A) as held,
    ):
        with pytest.raises(LockTimeout):
            async with other.hold(database, A):
                pass
        assert not held.is_lost


async def test_a_dead_holders_lock_is_free_after_its_expiry(database, own_redis, monkeypatch):
    monkeypatch.setattr(redis_strategy, "EXPIRE_SECONDS", 0.3)
    client = redis.asyncio.Redis.from_url(redis_url(own_redis.broker))
    await client.set(LOCK_A, "dead", px=300)
    await client.aclose()
    async with own_redis.opened() as strategy:
        assert (await execute(database, strategy, order("next"))).effect == "created"


async def test_a_lock_has_one_holder_at_a_time(database, locks):
    inside, most = 0, 0
    async with locks.opened() as one, locks.opened() as other:

        async def enter(strategy: Any) -> None:
            nonlocal inside, most
            async with strategy.hold(database, A):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(enter(each) for each in [one, other] * 5))
    assert most == 1


async def movements(service: Service) -> int:
    return (await service.sql("SELECT count(*) FROM movement"))[0]["count"]


async def test_without_the_lock_server_nothing_is_written_until_it_is_back(service, locks):
    before = await movements(service)
    locks.broker.kill()
    try:
        for seq in range(3):
            answer = await service.reserve(f"{seq}", ("A", 1))
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "Retry-After" in answer.headers
        assert await movements(service) == before
        assert await service.on_hand("A") == (100, 0)
    finally:
        locks.broker.start()
    assert await insist(lambda: buy(service, 0)) == 201
    assert await service.on_hand("A") == (99, 0)


async def test_a_request_does_not_wait_for_a_lock_server_that_hangs(service, locks, monkeypatch):
    """Afterwards it may still grant a lock that no request wants any more and that must expire."""
    monkeypatch.setattr(redis_strategy, "EXPIRE_SECONDS", 0.5)
    before = await movements(service)
    with locks.broker.frozen():
        async with asyncio.timeout(30):
            assert await buy(service, "frozen") == 503
        assert await movements(service) == before
    assert await insist(lambda: buy(service, "thawed")) == 201


async def test_a_service_that_starts_without_the_lock_server_serves_when_it_is_there(
    database_url, locks
):
    locks.broker.kill()
    try:
        settings = {"strategy": locks.name, **locks.settings}
        async with running_service(database_url, **settings) as service:
            assert await put(service, "A", 1) == 503
            await asyncio.to_thread(locks.broker.start)
            assert await insist(lambda: put(service, "A", 1)) == 201
    finally:
        if locks.broker.process.poll() is not None:
            locks.broker.start()


async def rush(
    services: list[Service], breaks: Callable[[asyncio.Event], Awaitable[None]]
) -> dict[int, int]:
    """Let two hundred buyers ask for a hundred units while locks are lost; count the answers.

    An event ends the task that breaks the locks. It is not cancelled, because redis-py waits with
    `asyncio.wait_for`, which swallows a cancellation in Python 3.11 (python/cpython#86296).
    """
    doors = itertools.cycle(services)
    counts: dict[int, int] = {}
    has_ended = asyncio.Event()
    breaking = asyncio.ensure_future(breaks(has_ended))

    async def buyer(seq: int, door: Service) -> None:
        status = await insist(lambda: buy(door, seq))
        counts[status] = counts.get(status, 0) + 1

    for wave in range(0, 200, 20):
        await asyncio.gather(*(buyer(seq, next(doors)) for seq in range(wave, wave + 20)))
    has_ended.set()
    await breaking
    return counts


async def test_locks_that_are_lost_under_load_oversell_no_unit(service, locks):
    seconds = {"redis": 0.05, "zookeeper": 0.5}  # a new session takes longer

    async def lose_again_and_again(has_ended: asyncio.Event) -> None:
        while not has_ended.is_set():
            await asyncio.sleep(seconds[locks.name])
            await locks.lose(service.app.worker.coalescer.ledger.strategy)

    settings = {"strategy": locks.name, **locks.settings}
    async with running_service(service.url, **settings) as other:
        counts = await rush([service, other], lose_again_and_again)
    assert counts == {201: 100, 409: 100}
    assert await service.on_hand("A") == (0, 0)


async def test_a_lock_server_that_is_killed_under_load_loses_no_unit(service, locks):
    async def restart_once(_has_ended: asyncio.Event) -> None:
        await asyncio.sleep(0.05)
        await asyncio.to_thread(locks.restart)

    settings = {"strategy": locks.name, **locks.settings}
    async with running_service(service.url, **settings) as other:
        counts = await rush([service, other], restart_once)
    assert counts == {201: 100, 409: 100}
    assert await service.on_hand("A") == (0, 0)


async def test_a_server_that_is_frozen_until_its_locks_have_expired_writes_nothing_late(
    own_redis, database_url
):
    """A process is stopped while it holds the lock; when it continues, all units are sold."""
    settings = {"strategy": "redis", **own_redis.settings}
    client = redis.asyncio.Redis.from_url(redis_url(own_redis.broker))
    has_ended = asyncio.Event()

    async def order_again_and_again(door: httpx.AsyncClient, seq: int) -> int:
        """Keep the server busy with one order; return its first answer."""
        body = {"seq": f"{seq}", "lines": [{"sku": "A", "quantity": 1}]}
        answers = []
        while not answers or not has_ended.is_set():
            answers.append(await insist(partial(_status, door, body)))
        return answers[0]

    with running_server(database_url, **settings) as server:
        async with (
            running_service(database_url, **settings) as service,
            httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=60) as door,
        ):
            assert await put(service, "A", 100) == 201
            there = [asyncio.create_task(order_again_and_again(door, n)) for n in range(20)]
            async with stopped_while(server, lambda: client.exists(LOCK_A)):
                here = [await insist(partial(buy, service, n)) for n in range(100)]
            has_ended.set()
            counts = Counter(here + await asyncio.gather(*there))
            assert counts[201] + counts[200] == 100
            assert counts[409] == 20
            assert await service.on_hand("A") == (0, 0)
    await client.aclose()


async def _status(door: httpx.AsyncClient, body: Any) -> int:
    return (await door.post("/v1/reservations", json=body)).status_code


def workers_of(server: Server) -> list[int]:
    supervisor = server.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    return [int(child) for child in children.split()]


@asynccontextmanager
async def stopped_while(server: Server, holds: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Stop the server's worker while it holds the lock; let it continue at the end."""
    workers = workers_of(server)

    def tell(number: signal.Signals) -> None:
        for worker in workers:
            os.kill(worker, number)

    try:
        async with asyncio.timeout(60):
            while True:
                tell(signal.SIGSTOP)
                await asyncio.sleep(0.02)  # what it sent before must arrive
                if await holds():
                    break
                tell(signal.SIGCONT)
                await asyncio.sleep(0.003)
        yield
    finally:
        tell(signal.SIGCONT)


async def test_without_any_lock_stock_is_never_oversold(service, locks, monkeypatch):
    """The mutant: every request for a lock is granted."""

    @asynccontextmanager
    async def no_lock(self: Any, database: Database, wanted: Wanted) -> AsyncIterator[HeldLocks]:
        yield HeldLocks()

    strategy = {"redis": redis_strategy.Redis, "zookeeper": zookeeper_strategy.ZooKeeper}
    monkeypatch.setattr(strategy[locks.name], "hold", no_lock)
    settings = {"strategy": locks.name, **locks.settings}
    async with running_service(service.url, **settings) as other:
        for turn in range(5):
            assert await put(service, f"S{turn}", 7) == 201
            doors = itertools.cycle([service, other])
            statuses = await asyncio.gather(
                *(buy(next(doors), f"{turn}-{n}", f"S{turn}") for n in range(30))
            )
            assert sorted(statuses) == [201] * 7 + [409] * 23
            assert await service.on_hand(f"S{turn}") == (0, 0)
