"""Rate limits in a real Redis: exact over workers and services, and no request fails for it."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import pytest
import redis.asyncio

from db.shared_buckets import SharedBuckets, Taking
from service.engine import outages
from service.http.access import lookups
from service.http.access.keys import new_key, store_key
from service.http.limits import shared_rates
from service.http.limits.rate_limit import RateLimit
from service.http.limits.shared_rates import SharedRates
from service.settings import Settings
from tests.brokers import redis_url, running_redis
from tests.conftest import running_service
from tests.server import running_server
from tests.test_application import hide
from tests.test_rate_limits import order, set_rate

BURST = 40
"""A rate, and so the burst that it allows."""


@pytest.fixture(autouse=True)
def patient_lookups(patient, monkeypatch):
    """Let keys be looked up for long: these tests are about Redis, not about a slow database."""
    monkeypatch.setattr(lookups, "LOOKUP_SECONDS_MAX", 30.0)


@pytest.fixture(scope="module")
def broker():
    with running_redis() as started:
        yield started


@pytest.fixture
async def url(broker):
    """The address of an empty Redis that runs."""
    client = redis.asyncio.Redis.from_url(redis_url(broker))
    await client.flushall()
    await client.config_resetstat()
    await client.aclose()
    return redis_url(broker)


@asynccontextmanager
async def limit_over(url, workers=1):
    """The rate limit of a worker."""
    limit = RateLimit(0, workers, SharedRates(url))
    try:
        yield limit
    finally:
        await limit.close()


async def admitted(limits, count, per_second=BURST):
    """Send requests at once; return how many are admitted, and the most that may be."""
    began_at = time.monotonic()
    takes = [limits[n % len(limits)].take("shop", per_second) for n in range(count)]
    found = sum(each.is_admitted for each in await asyncio.gather(*takes))
    return found, per_second * (1 + time.monotonic() - began_at) + 1


async def test_the_rate_is_exact_over_several_workers(url):
    async with limit_over(url, 3) as one, limit_over(url, 3) as two, limit_over(url, 3) as three:
        found, at_most = await admitted([one, two, three], 600)
        assert BURST <= found <= at_most


async def test_requests_at_once_share_one_call_to_redis(url):
    async with limit_over(url) as limit:
        await asyncio.gather(*(limit.take(f"shop {n % 5}", 10) for n in range(200)))
        client = redis.asyncio.Redis.from_url(url)
        calls = await client.info("commandstats")
        keys = await client.keys()
        await client.aclose()
    # the script is unknown to this Redis at first, so it may be sent once more
    assert calls["cmdstat_evalsha"]["calls"] <= 2
    assert len(keys) == 5


async def test_a_bucket_that_is_full_again_is_forgotten(url):
    async with limit_over(url) as limit:
        await limit.take("shop", 10, 100, owes=True)
        client = redis.asyncio.Redis.from_url(url)
        (key,) = await client.keys()
        milliseconds = await client.pttl(key)
        await client.aclose()
    assert 9_000 < milliseconds <= 11_000  # 90 are owed and 10 more fill it; a second to spare


@pytest.mark.parametrize("source", ["a b", "ünï", "x" * 128, "holdfast:rate:", "{a}b", "\\0'\""])
async def test_sources_of_any_name_have_their_own_bucket(url, source):
    async with limit_over(url) as limit:
        for _ in range(2):
            assert (await limit.take("another", 2)).is_admitted
        grants = [(await limit.take(source, 2)).is_admitted for _ in range(2)]
        assert grants == [True, True]


async def test_a_batch_leaves_its_debt_to_all_workers_and_the_debt_is_bounded(url):
    async with limit_over(url) as one, limit_over(url) as two:
        assert (await one.take("shop", 10)).is_admitted
        owing = await one.take("shop", 10, 500, owes=True)
        assert -491 <= owing.tokens <= -490
        refused = await two.take("shop", 10)
        assert not refused.is_admitted
        assert 49 <= refused.retry_after_seconds <= 50
        owing = await one.take("shop", 10, 10**6, owes=True)
        assert owing.tokens == -36_000


async def test_a_changed_rate_fills_the_bucket_at_its_new_speed(url):
    buckets = SharedBuckets(url, 1.0)
    taken = Taking(per_second=1000, debt_max=10**6, owed=1000)
    await buckets.take({"shop": taken})
    lower = Taking(per_second=2, debt_max=10**6, wanted=100)
    await buckets.take({"shop": lower})
    await buckets.close()
    assert lower.granted <= 2


# Over HTTP


async def statuses(clients, count):
    """Send requests at once with several clients; count the answers by status.

    Each admitted request is answered 400, which needs no connection to a busy database.
    """
    sent = (clients[n % len(clients)].get("/v1/stock?limit=x") for n in range(count))
    return Counter(answer.status_code for answer in await asyncio.gather(*sent))


async def limited_key(database, service, per_second=BURST):
    """The headers of a key of a source with a rate."""
    key = new_key()
    await store_key(database, key, "shop", ["read"])
    await set_rate(service, "shop", per_second)
    return {"Authorization": f"Bearer {key}"}


async def test_the_rate_is_exact_over_two_workers_of_a_server(url, service):
    headers = await limited_key(service.database, service)
    with running_server(service.url, workers=2, redis_url=url) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            began_at = time.monotonic()
            found = await statuses([client], 400)
            at_most = BURST * (1 + time.monotonic() - began_at) + 1
            quota = (await client.get("/v1/stock")).headers["RateLimit-Policy"]
    assert set(found) == {400, 429}
    assert BURST <= found[400] <= at_most
    assert quota == f'"default";q={BURST};w=1'


async def test_the_rate_is_exact_over_two_services(url, database_url):
    async with (
        running_service(database_url, redis_url=url) as one,
        running_service(database_url, redis_url=url, workers=8) as two,
    ):
        headers = await limited_key(one.database, one)
        for service in (one, two):
            service.client.headers.update(headers)
        began_at = time.monotonic()
        found = await statuses([one.client, two.client], 300)
        at_most = BURST * (1 + time.monotonic() - began_at) + 1
        assert set(found) == {400, 429}
        assert BURST <= found[400] <= at_most


async def test_a_batch_counts_its_entries_in_redis(url, database_url):
    async with running_service(database_url, redis_url=url, rate_limit=10) as service:
        batch = {"reservations": [order(str(number)) for number in range(500)]}
        answer = await service.client.post("/v1/reservations/batch", json=batch)
        assert answer.status_code == 200
        assert answer.headers["RateLimit"].startswith('"default";r=0;t=')
        refused = await service.client.get("/v1/stock")
        assert refused.status_code == 429
        assert 40 <= int(refused.headers["Retry-After"]) <= 50


# Redis unreachable


@pytest.fixture
def own_broker():
    with running_redis() as started:
        yield started


async def test_without_redis_a_worker_limits_by_itself_until_redis_is_back(own_broker, monkeypatch):
    monkeypatch.setattr(shared_rates, "RETRY_SECONDS", 0.05)
    async with limit_over(redis_url(own_broker), workers=2) as limit:
        logged = []
        monkeypatch.setattr(outages.log, "warning", lambda event, **_: logged.append(event))
        monkeypatch.setattr(outages.log, "info", lambda event, **_: logged.append(event))
        assert (await limit.take("shop", 10)).is_admitted
        own_broker.kill()
        grants = [(await limit.take("shop", 10)) for _ in range(20)]
        assert 4 <= sum(each.is_admitted for each in grants) <= 10  # its share is 5 a second
        assert limit.shared._is_lost
        own_broker.start()
        async with asyncio.timeout(30):
            while limit.shared._is_lost:
                await limit.take("another", 10)
                await asyncio.sleep(0.02)
        grants = await asyncio.gather(*(limit.take("third", 1000) for _ in range(1000)))
        assert sum(each.is_admitted for each in grants) == 1000  # a worker's share would be 500
    assert logged == ["redis_lost", "redis_regained"]


async def test_the_debt_of_a_source_outlives_redis(own_broker):
    async with limit_over(redis_url(own_broker)) as limit:
        await limit.take("shop", 10, 1000, owes=True)
        own_broker.kill()
        refused = await limit.take("shop", 10)
        assert not refused.is_admitted
        assert refused.retry_after_seconds > 50


async def test_a_frozen_redis_fails_no_request_and_its_late_answers_are_not_mixed_up(
    own_broker, monkeypatch
):
    monkeypatch.setattr(shared_rates, "RETRY_SECONDS", 0.05)
    async with limit_over(redis_url(own_broker)) as limit:
        await limit.take("shop", 1000)
        with own_broker.frozen():
            async with asyncio.timeout(30):
                grants = await asyncio.gather(*(limit.take("shop", 1000) for _ in range(100)))
            assert all(each.is_admitted for each in grants)
        async with asyncio.timeout(30):
            while limit.shared._is_lost:
                await limit.take("shop", 1000)
                await asyncio.sleep(0.02)
        await limit.take("owing", 10, 1000, owes=True)
        for _ in range(10):
            fresh, owing = await asyncio.gather(limit.take("fresh", 1000), limit.take("owing", 10))
            assert (fresh.is_admitted, owing.is_admitted) == (True, False)


async def test_a_service_whose_redis_never_answers_serves(database_url):
    async with running_service(
        database_url, redis_url="redis://127.0.0.1:1/0", rate_limit=5
    ) as service:
        answers = [await service.client.get("/v1/stock") for _ in range(30)]
        assert {each.status_code for each in answers} == {200, 429}
        assert all("RateLimit" in each.headers for each in answers)


# The setting


def test_an_address_that_is_not_one_of_redis_is_refused_at_the_start():
    with pytest.raises(ValueError, match="redis-url can't be read") as refused:
        Settings(redis_url="http://:secret@host")
    assert "secret" not in str(refused.value.errors()[0]["msg"])


def test_an_address_without_the_client_of_redis_is_refused_at_the_start(monkeypatch):
    hide(monkeypatch, "redis", "db.strategies.redis")
    with pytest.raises(ValueError, match=r"redis-url needs the Python package redis") as refused:
        Settings(redis_url="redis://host/0")
    assert "pip install 'holdfast[redis]'" in str(refused.value)
