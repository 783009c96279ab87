"""The limits of one source: its rate, its requests under way, and requests without a valid key."""

import asyncio

import pytest

from db.queries import lists
from service.domain.errors import RateLimited, Unauthenticated
from service.http.limits import bucket, keyless, rate_limit
from service.http.limits.in_flight import InFlight
from service.http.limits.keyless import KeylessRequests, network_of
from service.http.limits.rate_limit import RateLimit
from tests.conftest import running_service


class Clock:
    """A clock that moves only on demand, so that a slow machine does not refill a bucket."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    still = Clock()
    monkeypatch.setattr(bucket, "time", still)
    monkeypatch.setattr(keyless, "time", still)
    return still


async def set_rate(service, source, per_second):
    """Give a source a rate, and wait until the worker has seen it."""
    await service.sql(
        "INSERT INTO source_limit (source, requests_per_second, tracking, open_holds, held_units,"
        " version) VALUES ($1, $2, 'off', 0, 0, 1)"
        " ON CONFLICT (source) DO UPDATE SET requests_per_second = $2",
        source,
        per_second,
    )


def remaining(answer):
    """The requests that may follow, and after how many seconds more may."""
    values = dict(each.split("=") for each in answer.headers["RateLimit"].split(";")[1:])
    return int(values["r"]), int(values["t"])


def order(seq, sku="A"):
    return {"seq": seq, "lines": [{"sku": sku, "quantity": 1}]}


# The rate


async def test_a_source_has_its_own_rate_and_a_change_works_within_a_second(service, clock):
    shop, other = await service.key("shop", "read"), await service.key("other", "read")
    answer = await service.client.get("/v1/stock", headers=shop)
    assert "RateLimit" not in answer.headers
    await set_rate(service, "shop", 2)
    async with asyncio.timeout(5):
        while "RateLimit" not in answer.headers:
            answer = await service.client.get("/v1/stock", headers=shop)
            await asyncio.sleep(0.05)
    answers = [await service.client.get("/v1/stock", headers=shop) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 429, 429]
    for _ in range(5):
        answer = await service.client.get("/v1/stock", headers=other)
        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers


async def test_two_keys_of_a_source_share_its_rate(service, clock):
    await set_rate(service, "shop", 2)
    keys = [await service.key("shop", "read") for _ in range(3)]
    answers = [await service.client.get("/v1/stock", headers=key) for key in keys]
    assert [each.status_code for each in answers] == [200, 200, 429]


async def test_the_headers_tell_the_quota_the_rest_and_the_wait(database_url, clock):
    async with running_service(database_url, rate_limit=3) as service:
        answers = [await service.client.get("/v1/stock") for _ in range(4)]
    assert {each.headers["RateLimit-Policy"] for each in answers} == {'"default";q=3;w=1'}
    assert [each.headers["RateLimit"] for each in answers] == [
        '"default";r=2;t=1', '"default";r=1;t=1', '"default";r=0;t=1', '"default";r=0;t=1',
    ]  # fmt: skip
    assert answers[3].headers["Retry-After"] == "1"
    assert answers[3].json()["retry_after"] == 1


async def test_every_kind_of_answer_to_a_source_with_a_rate_has_the_headers(service, monkeypatch):
    await set_rate(service, "shop", 1000)
    key = await service.key("shop", "read", "reserve")
    await service.stock("A", 5)
    client = service.client
    stock = await client.get("/v1/stock/A/main", headers=key)
    answers = {
        "200": stock,
        "304": await client.get(
            "/v1/stock/A/main", headers={**key, "If-None-Match": stock.headers["ETag"]}
        ),
        "HEAD": await client.head("/v1/stock/A/main", headers=key),
        "201": await client.post("/v1/reservations", json=order("1"), headers=key),
        "400": await client.post("/v1/reservations", json={}, headers=key),
        "400 of the query": await client.get("/v1/stock?nonsense=1", headers=key),
        "403": await client.put("/v1/stock/B/main", json={"available": 1}, headers=key),
        "404": await client.get("/v1/stock/none/main", headers=key),
        "406": await client.get("/v1/stock", headers={**key, "Accept": "text/html"}),
        "409": await client.post(
            "/v1/reservations",
            json={"seq": "2", "lines": [{"sku": "A", "quantity": 50}]},
            headers=key,
        ),
        "413": await client.post("/v1/reservations", content=b" " * 2**21, headers=key),
        "415": await client.post(
            "/v1/reservations", content=b"{}", headers={**key, "Content-Type": "text/plain"}
        ),
    }

    async def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("db.queries.lists.stock", broken)
    answers["500"] = await client.get("/v1/stock", headers=key)
    for kind, answer in answers.items():
        assert kind == "HEAD" or answer.status_code == int(kind[:3]), answer.text
        assert answer.headers["RateLimit-Policy"] == '"default";q=1000;w=1', kind
        assert remaining(answer)[1] == 1, kind
    without = await client.get("/v1/stock", headers={"Authorization": "Bearer none"})
    assert without.status_code == 401
    assert "RateLimit" not in without.headers


async def test_a_batch_counts_its_entries_and_leaves_a_debt(service, clock):
    await set_rate(service, "shop", 10)
    key = await service.key("shop", "reserve", "read")
    await service.stock("A", 1000)
    batch = {"reservations": [order(str(number)) for number in range(35)]}
    answer = await service.client.post("/v1/reservations/batch", json=batch, headers=key)
    assert [each["status"] for each in answer.json()["results"]] == [201] * 35
    assert remaining(answer) == (0, 3)
    refused = await service.client.post("/v1/reservations", json=order("x"), headers=key)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3")
    assert refused.json()["retry_after"] == 3
    clock.seconds += 2.5
    refused = await service.client.post("/v1/reservations/batch", json=batch, headers=key)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    clock.seconds += 0.2
    admitted = await service.client.post("/v1/reservations/batch", json=batch, headers=key)
    assert admitted.status_code == 200
    assert (await service.on_hand("A"))[0] == 965


async def test_entries_of_a_batch_that_are_invalid_count_too(service, clock):
    await set_rate(service, "shop", 10)
    key = await service.key("shop", "reserve")
    batch = {"reservations": [{}] * 7}
    answer = await service.client.post("/v1/reservations/batch", json=batch, headers=key)
    assert remaining(answer) == (3, 1)


async def test_an_import_counts_as_one_request(service, clock):
    await set_rate(service, "shop", 10)
    key = await service.key("shop", "stock")
    rows = "sku,location,available\n" + "".join(f"I{n},,1\n" for n in range(100))
    answer = await service.client.post(
        "/v1/imports?job=1", content=rows, headers={**key, "Content-Type": "text/csv"}
    )
    assert (answer.status_code // 100, remaining(answer)) == (2, (9, 1))


async def test_the_debt_and_its_retry_after_are_bounded(clock):
    limit = RateLimit(0, workers=1)
    for _ in range(10):
        allowance = await limit.take("shop", 1, 1000, owes=True)
    assert allowance.tokens == -3600
    assert allowance.retry_after_seconds == 3600
    clock.seconds += 3601
    assert (await limit.take("shop", 1)).is_admitted


async def test_each_worker_has_a_share_of_the_rate_and_at_least_one_request(clock):
    limit = RateLimit(0, workers=4)
    assert [(await limit.take("a", 8)).is_admitted for _ in range(3)] == [True, True, False]
    assert [(await limit.take("b", 1)).is_admitted for _ in range(2)] == [True, False]
    assert (await limit.take("b", 1)).retry_after_seconds == 4
    clock.seconds += 4
    assert (await limit.take("b", 1)).is_admitted


async def test_many_sources_do_not_give_a_busy_one_a_new_bucket(clock, monkeypatch):
    monkeypatch.setattr(rate_limit, "SOURCES_MAX", 100)
    limit = RateLimit(0, workers=1)
    for number in range(99):
        await limit.take(f"idle {number}", 1)
    clock.seconds += 100
    await limit.take("busy", 1)
    for number in range(50):
        await limit.take(f"further {number}", 1)
    assert not (await limit.take("busy", 1)).is_admitted
    assert len(limit._buckets) <= 100


# In flight


async def test_a_source_with_too_many_requests_under_way_gets_429(database_url, monkeypatch):
    async with running_service(database_url, inflight_max=2) as service:
        shop, other = await service.key("shop", "read"), await service.key("other", "read")
        may_answer, answering = asyncio.Event(), []
        found = lists.stock

        async def wait(*arguments, **named):
            answering.append(1)
            await may_answer.wait()
            return await found(*arguments, **named)

        monkeypatch.setattr(lists, "stock", wait)
        get = service.client.get
        waiting = [asyncio.create_task(get("/v1/stock", headers=shop)) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(answering) < 2:
                await asyncio.sleep(0.01)
        refused = await get("/v1/reservations", headers=shop)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert "INFLIGHT_MAX" in refused.json()["detail"]
        assert (await get("/v1/reservations", headers=other)).status_code == 200
        may_answer.set()
        assert [(await each).status_code for each in waiting] == [200, 200]
        for _ in range(5):  # the places of the answered requests are free again
            assert (await get("/v1/reservations", headers=shop)).status_code == 200
        monkeypatch.setattr(lists, "stock", None)
        for _ in range(5):  # also after a failure
            assert (await get("/v1/stock", headers=shop)).status_code == 500
        assert service.app.worker.in_flight._counts == {}


def test_a_source_without_requests_takes_no_memory():
    in_flight = InFlight(2)
    in_flight.begin("a")
    in_flight.begin("a")
    with pytest.raises(RateLimited):
        in_flight.begin("a")
    in_flight.begin("b")
    for source in "aab":
        in_flight.end(source)
    assert in_flight._counts == {}


# Without a valid key


async def test_more_than_300_requests_a_minute_without_a_valid_key_get_429(service, clock):
    unknown = {"Authorization": "Bearer hf_unknown"}
    statuses = [
        (await service.client.get("/v1/stock", headers=unknown)).status_code for _ in range(305)
    ]
    assert statuses == [401] * 300 + [429] * 5
    bare = await service.client.get("/v1/stock", headers={"Authorization": "x"})
    assert (bare.status_code, bare.json()["code"]) == (429, "rate_limited")
    assert bare.headers["Retry-After"] == "60"
    assert bare.json()["retry_after"] == 60
    assert (await service.client.get("/v1/stock")).status_code == 200  # a valid key
    clock.seconds += 60
    assert (await service.client.get("/v1/stock", headers=unknown)).status_code == 401


async def test_a_wrong_key_on_the_page_counts_as_a_request_without_a_valid_key(service, clock):
    statuses = [
        (await service.client.post("/sign-in", data={"key": "wrong"})).status_code
        for _ in range(301)
    ]
    assert statuses == [401] * 300 + [429]


async def test_a_wrong_cookie_counts_as_a_request_without_a_valid_key(service, clock):
    statuses = [
        (await service.client.get("/", headers={"Cookie": f"holdfast=x{number}"})).status_code
        for number in range(301)
    ]
    assert statuses == [303] * 300 + [429]  # 303 leads to the page that asks for a key
    assert (await service.client.get("/sign-in")).status_code == 200


async def test_a_client_can_not_choose_its_address_by_a_header(service, clock):
    for number in range(300):
        await service.client.get(
            "/v1/stock",
            headers={"Authorization": "x", "X-Forwarded-For": f"203.0.113.{number}"},
        )
    answer = await service.client.get(
        "/v1/stock", headers={"Authorization": "x", "X-Forwarded-For": "198.51.100.1"}
    )
    assert answer.status_code == 429


ERROR = Unauthenticated("No key.")


def test_each_worker_has_a_share_of_the_limit_of_an_address(clock):
    counted = KeylessRequests(workers=4)
    refusals = [counted.refusal("192.0.2.1", ERROR).status for _ in range(76)]
    assert refusals == [401] * 75 + [429]


def test_many_addresses_neither_reset_a_count_nor_take_more_memory(clock, monkeypatch):
    monkeypatch.setattr(keyless, "ADDRESSES_MAX", 100)
    counted = KeylessRequests(workers=1)
    for _ in range(300):
        counted.refusal("192.0.2.1", ERROR)
    for number in range(5000):
        counted.refusal(f"10.0.{number // 256}.{number % 256}", ERROR)
    assert counted.refusal("192.0.2.1", ERROR).status == 429
    assert counted.refusal("10.0.0.1", ERROR).status == 401  # counted by itself
    assert counted.refusal("198.51.100.1", ERROR).status == 429  # counted with all further ones
    assert len(counted._windows) <= 101
    clock.seconds += 60
    assert counted.refusal("198.51.100.1", ERROR).status == 401
    assert len(counted._windows) == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_ipv6_addresses_are_counted_by_their_first_64_bits(address, network):
    assert network_of(address) == network
