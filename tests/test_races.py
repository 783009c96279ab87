"""Races: two applications on one database in this process, and two workers of a real server.

Every request of a race is sent before the first answer is awaited. Requests alternate between the
applications, each of which has its own pool and coalescer.
"""

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import httpx
import pytest

from db.ledger import apply as writes
from tests.conftest import assert_books_balance, fresh_database, running_service
from tests.server import running_server

WAYS = ["two applications", "two workers"]


def post(path: str, body: Any = None) -> dict[str, Any]:
    return {"method": "POST", "url": path, "json": body}


@dataclass
class Shop:
    """One shop that is reached through several services."""

    url: str
    doors: list[httpx.AsyncClient]
    prefix: str = ""

    async def put(self, sku: str, available: int) -> None:
        answer = await self.doors[0].put(
            f"/v1/stock/{self.prefix}{sku}/main",
            json={"available": available},
            headers={"If-None-Match": "*"},
        )
        assert answer.status_code == 201, answer.text

    async def stock(self, sku: str) -> tuple[int, int]:
        """Return (available, held)."""
        row = (await self.doors[0].get(f"/v1/stock/{self.prefix}{sku}/main")).json()
        return row["available"], row["held"]

    def order(self, seq: Any, *lines: tuple[str, int], **more: Any) -> dict[str, Any]:
        return {
            "seq": f"{self.prefix}{seq}",
            "lines": [{"sku": self.prefix + sku, "quantity": quantity} for sku, quantity in lines],
            **more,
        }

    async def reserve(self, *order: Any, **more: Any) -> dict[str, Any]:
        answer = await self.doors[0].post("/v1/reservations", json=self.order(*order, **more))
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def movements(self, reservation: dict[str, Any]) -> list[str]:
        address = f"/v1/reservations/{reservation['id']}/movements"
        return [move["kind"] for move in (await self.doors[0].get(address)).json()["items"]]

    async def race(self, *requests: dict[str, Any]) -> list[httpx.Response]:
        """Send all requests at once, divided among the services."""
        doors = itertools.cycle(self.doors)
        return await asyncio.gather(*(next(doors).request(**request) for request in requests))

    async def reserve_all(self, *orders: dict[str, Any]) -> list[httpx.Response]:
        return await self.race(*(post("/v1/reservations", order) for order in orders))

    async def step(self, holds: list[dict[str, Any]], *steps: str) -> list[httpx.Response]:
        """Take all steps of all reservations at once; the answers have the same order."""
        addresses = [f"/v1/reservations/{hold['id']}" for hold in holds]
        return await self.race(*(post(f"{a}/{step}") for a in addresses for step in steps))


@pytest.fixture(scope="module", params=WAYS)
async def open_shop(request: Any, postgres_url: str) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(fresh_database(postgres_url))
        if request.param == "two applications":
            services = [await stack.enter_async_context(running_service(url)) for _ in range(2)]
            yield Shop(url, [service.client for service in services])
        else:
            server = stack.enter_context(running_server(url, workers=2))
            door = httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30)
            yield Shop(url, [await stack.enter_async_context(door)])


@pytest.fixture
async def shop(open_shop: Shop) -> AsyncIterator[Shop]:
    """The shop with new SKUs for each test; check at the end that its books balance."""
    yield replace(open_shop, prefix=f"{uuid.uuid4().hex[:8]}-")
    await assert_books_balance(open_shop.url)


def statuses(answers: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(answer.status_code for answer in answers))


async def rush_for_the_last_seven(shop: Shop) -> None:
    await shop.put("A", 7)
    answers = await shop.reserve_all(*(shop.order(n, ("A", 1)) for n in range(200)))
    assert statuses(answers) == {201: 7, 409: 193}
    assert await shop.stock("A") == (0, 0)


async def test_of_two_hundred_buyers_of_the_last_seven_units_exactly_seven_get_one(shop):
    await rush_for_the_last_seven(shop)


async def test_the_race_catches_a_reserve_that_does_not_guard_its_deduction(
    postgres_url, monkeypatch
):
    """Without its guard the engine oversells, and the race of this file must detect it.

    The test always uses the strategy `guard`, because most others also use locks.
    """
    part = writes.PARTS["stock_changed"]
    careless = part.sql
    for guard in ("stock.available + new.lowest >= 0", "stock.version = new.seen_version"):
        assert guard in careless
        careless = careless.replace(guard, "TRUE")
    monkeypatch.setitem(writes.PARTS, "stock_changed", replace(part, sql=careless))
    monkeypatch.setattr(writes, "_STATEMENTS", {})
    async with (
        fresh_database(postgres_url) as url,
        running_service(url, strategy="guard") as one,
        running_service(url, strategy="guard") as other,
    ):
        await one.sql("ALTER TABLE stock DROP CONSTRAINT stock_available_check")
        with pytest.raises(AssertionError, match="201"):
            await rushes(Shop(url, [one.client, other.client]))


async def rushes(shop: Shop) -> None:
    for attempt in range(20):  # usually the first attempt oversells
        await rush_for_the_last_seven(replace(shop, prefix=f"{attempt}-"))


async def test_thirty_two_equal_requests_at_once_have_one_effect_and_one_answer(shop):
    await shop.put("A", 100)
    answers = await shop.reserve_all(*(shop.order(1, ("A", 3), hold_seconds=60),) * 32)
    assert statuses(answers) == {201: 1, 200: 31}
    assert len({answer.content for answer in answers}) == 1
    assert await shop.stock("A") == (97, 3)


async def test_of_two_contents_under_one_identity_at_once_exactly_one_is_stored(shop):
    await shop.put("A", 100)
    answers = await shop.reserve_all(*(shop.order(1, ("A", 1 + n % 2)) for n in range(32)))
    assert statuses(answers) == {201: 1, 200: 15, 422: 16}
    won = next(answer.json() for answer in answers if answer.status_code == 201)
    assert await shop.stock("A") == (100 - won["lines"][0]["quantity"], 0)


async def test_of_many_requests_for_one_id_exactly_one_gets_it(shop):
    await shop.put("A", 100)
    id_ = str(uuid.uuid4())
    answers = await shop.reserve_all(*(shop.order(n, ("A", 1), id=id_) for n in range(32)))
    assert statuses(answers) == {201: 1, 422: 31}
    assert {a.json()["field"] for a in answers if a.status_code == 422} == {"seq"}
    assert await shop.stock("A") == (99, 0)


async def test_orders_with_the_same_skus_in_different_orders_all_succeed(shop):
    for sku in "ABC":
        await shop.put(sku, 300)
    orders = itertools.cycle(itertools.permutations([("A", 1), ("B", 1), ("C", 1)]))
    answers = await shop.reserve_all(*(shop.order(n, *next(orders)) for n in range(120)))
    assert statuses(answers) == {201: 120}
    assert [await shop.stock(sku) for sku in "ABC"] == [(180, 0)] * 3


async def test_of_confirm_and_cancel_at_once_exactly_one_wins(shop):
    await shop.put("A", 20)
    holds = [await shop.reserve(n, ("A", 2), hold_seconds=60) for n in range(10)]
    answers = await shop.step(holds, "confirm", "cancel", "cancel", "confirm")
    for index, hold in enumerate(holds):
        four = answers[4 * index : 4 * index + 4]
        assert statuses(four) == {200: 2, 409: 2}
        done = [answer for answer in four if answer.status_code == 200]
        assert ["Idempotency-Replayed" in answer.headers for answer in done].count(True) == 1
        ending = {"confirmed": "confirm", "cancelled": "cancel"}[done[0].json()["state"]]
        assert await shop.movements(hold) == ["reserve", ending]


async def test_of_confirm_and_the_deadline_exactly_one_wins(shop):
    await shop.put("A", 60)
    holds = [await shop.reserve(n, ("A", 1), hold_seconds=60) for n in range(40)]
    await deadlines_pass_one_by_one(shop, holds)
    answers = await shop.step(holds, "confirm")
    async with asyncio.timeout(10):
        while (await shop.stock("A"))[1]:
            await asyncio.sleep(0.05)
    for hold, answer in zip(holds, answers, strict=True):
        ending = "confirm" if answer.status_code == 200 else "expire"
        if ending == "expire":
            assert (answer.status_code, answer.json()["state"]) == (409, "expired")
        assert await shop.movements(hold) == ["reserve", ending]
    assert await shop.stock("A") == (60 - statuses(answers).get(200, 0), 0)


async def deadlines_pass_one_by_one(shop: Shop, holds: list[dict[str, Any]]) -> None:
    """Set deadlines one millisecond apart, half of which have already passed."""
    connection = await asyncpg.connect(shop.url)
    await connection.execute(
        "UPDATE reservation SET expires_at = clock_timestamp() + (n - 20) * interval '1 ms'"
        " FROM unnest($1::uuid[]) WITH ORDINALITY AS hold(id, n) WHERE reservation.id = hold.id",
        [hold["id"] for hold in holds],
    )
    await connection.close()


async def test_refunds_at_once_return_no_more_units_than_were_sold(shop):
    await shop.put("A", 5)
    sale = await shop.reserve("sale", ("A", 5))
    lines = shop.order("", ("A", 2))["lines"]
    address = f"/v1/reservations/{sale['id']}/refunds"
    answers = await shop.race(
        *(post(address, {"seq": f"{shop.prefix}{n}", "lines": lines}) for n in range(20))
    )
    assert statuses(answers) == {201: 2, 409: 18}
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"exceeds_refundable"}
    assert await shop.stock("A") == (4, 0)


async def test_of_many_full_refunds_at_once_exactly_one_succeeds(shop):
    await shop.put("A", 5)
    sale = await shop.reserve("sale", ("A", 5))
    address = f"/v1/reservations/{sale['id']}/refunds"
    bodies = [{"seq": f"{shop.prefix}{n % 10}"} for n in range(20)]
    answers = await shop.race(*(post(address, body) for body in bodies))
    assert statuses(answers) == {201: 1, 200: 1, 409: 18}
    assert await shop.stock("A") == (5, 0)


async def test_adjustments_and_reservations_at_once_never_use_a_unit_twice(shop):
    await shop.put("A", 10)
    address = f"/v1/stock/{shop.prefix}A/main/adjustments"
    taken = [
        post(address, {"seq": f"{shop.prefix}{n}", "delta": -1, "reason": "broken"})
        for n in range(15)
    ]
    sold = [post("/v1/reservations", shop.order(n, ("A", 1))) for n in range(15)]
    pairs = zip(taken, sold, strict=True)
    answers = await shop.race(*itertools.chain.from_iterable(pairs))
    assert statuses(answers) == {201: 10, 409: 20}
    assert await shop.stock("A") == (0, 0)


async def test_a_stock_row_is_not_deleted_under_a_hold(shop):
    for sku in map(str, range(8)):
        await shop.put(sku, 5)
    answers = await shop.race(
        *itertools.chain.from_iterable(
            (
                post("/v1/reservations", shop.order(sku, (sku, 1), hold_seconds=60)),
                {"method": "DELETE", "url": f"/v1/stock/{shop.prefix}{sku}/main"},
            )
            for sku in map(str, range(8))
        )
    )
    for reserved, deleted in zip(answers[::2], answers[1::2], strict=True):
        codes = (reserved.status_code, deleted.status_code)
        assert codes in [(201, 409), (404, 204)], (reserved.text, deleted.text)


async def test_of_many_writes_at_one_version_exactly_one_succeeds(shop):
    address = f"/v1/stock/{shop.prefix}A/main"
    for condition, status in (("If-None-Match", 201), ("If-Match", 200)):
        tag = {"If-None-Match": "*", "If-Match": '"1"'}[condition]
        answers = await shop.race(
            *(
                {
                    "method": "PUT",
                    "url": address,
                    "json": {"available": n},
                    "headers": {condition: tag},
                }
                for n in range(32)
            )
        )
        assert statuses(answers) == {status: 1, 412: 31}
        won = next(answer.json() for answer in answers if answer.status_code == status)
        assert await shop.stock("A") == (won["available"], 0)
        current = {answer.json()["current"] for answer in answers if answer.status_code == 412}
        assert current == {won["version"]}
