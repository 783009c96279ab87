"""Limits hold exactly when many requests arrive at once, over workers, services and strategies."""

import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from db.ledger import apply as writes
from db.vocabulary import StrategyName
from tests.conftest import assert_books_balance, fresh_database, running_service, settings_of
from tests.server import running_server
from tests.test_races import Shop, post, statuses

WAYS = ["two workers", *StrategyName]
"""Two workers of one server, and two applications with each strategy."""


@pytest.fixture(scope="module", params=WAYS)
async def open_shop(request: Any, brokers: Any, postgres_url: str) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(fresh_database(postgres_url))
        if request.param == "two workers":
            server = stack.enter_context(running_server(url, workers=2))
            doors = [
                httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=60)
                for _ in range(8)  # separate connections, so that both workers get some of them
            ]
            for door in doors:
                await stack.enter_async_context(door)
            yield Shop(url, doors)
            return
        settings = {"strategy": request.param, **settings_of(request.param, brokers)}
        services = [
            await stack.enter_async_context(running_service(url, **settings)) for _ in range(2)
        ]
        yield Shop(url, [service.client for service in services])


class Source:
    """A new source with limits, which sends requests through all doors of a shop."""

    def __init__(self, shop: Shop, name: str, key: str) -> None:
        self.shop, self.name = shop, name
        self.headers = {"Authorization": f"Bearer {key}"}
        self.count = itertools.count()

    @classmethod
    async def new(cls, shop: Shop, **limits: int) -> "Source":
        name = f"source-{uuid.uuid4().hex[:8]}"
        body = {"seq": name, "source": name, "scopes": ["reserve", "read"]}
        made = await shop.doors[0].post("/v1/keys", json=body)
        assert made.status_code == 201, made.text
        set_ = await shop.doors[0].put(f"/v1/sources/{name}/limits", json=limits)
        assert set_.status_code == 200, set_.text
        return cls(shop, name, made.json()["key"])

    def hold(self, *lines: tuple[str, int]) -> dict[str, Any]:
        order = self.shop.order(next(self.count), *lines, hold_seconds=600)
        return {**post("/v1/reservations", order), "headers": self.headers}

    def step(self, place: str, step: str) -> dict[str, Any]:
        return {**post(f"{place}/{step}"), "headers": self.headers}

    async def used(self) -> tuple[int, int]:
        answer = await self.shop.doors[0].get(f"/v1/sources/{self.name}/limits")
        return answer.json()["used"]["open_holds"], answer.json()["used"]["held_units"]


@pytest.fixture
async def shop(open_shop: Shop) -> AsyncIterator[Shop]:
    """The shop with new SKUs for each test; check at the end that its books balance."""
    shop = replace(open_shop, prefix=f"{uuid.uuid4().hex[:8]}-")
    for sku in "ABCD":
        await shop.put(sku, 10_000)
    yield shop
    await assert_books_balance(open_shop.url)


def places(answers: list[httpx.Response]) -> list[str]:
    return [answer.headers["Location"] for answer in answers if answer.status_code == 201]


async def test_of_two_hundred_holds_at_once_exactly_the_allowed_twenty_are_made(shop):
    source = await Source.new(shop, open_holds_max=20)
    skus = itertools.cycle("ABCD")
    answers = await shop.race(*(source.hold((next(skus), 1)) for _ in range(200)))
    assert statuses(answers) == {201: 20, 429: 180}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 429} == {
        "quota_exceeded"
    }
    assert await source.used() == (20, 20)


async def test_of_two_hundred_holds_of_three_units_as_many_are_made_as_fit(shop):
    source = await Source.new(shop, held_units_max=50)
    skus = itertools.cycle("ABCD")
    answers = await shop.race(*(source.hold((next(skus), 3)) for _ in range(200)))
    assert statuses(answers) == {201: 16, 429: 184}
    assert await source.used() == (16, 48)


async def test_holds_that_end_while_others_begin_never_let_the_source_exceed_its_limit(shop):
    source = await Source.new(shop, open_holds_max=10)
    made = await shop.race(*(source.hold(("A", 1)) for _ in range(10)))
    assert statuses(made) == {201: 10}
    for step in ("confirm", "cancel", "confirm"):
        ending = [source.step(place, step) for place in places(made)]
        beginning = [source.hold((sku, 1)) for sku in "ABCDABCDABCDABCD"]
        answers = await shop.race(*beginning[:8], *ending, *beginning[8:])
        assert statuses(answers)[200] == len(ending)
        made = [answer for answer in answers if answer.status_code == 201]
        assert len(made) <= 10
        assert await source.used() == (len(made), len(made))
        more = await shop.race(*(source.hold(("B", 1)) for _ in range(20)))
        assert statuses(more).get(201, 0) == 10 - len(made)
        made += [answer for answer in more if answer.status_code == 201]


async def test_two_sources_at_their_limits_do_not_take_room_from_each_other(shop):
    one, two = await Source.new(shop, open_holds_max=5), await Source.new(shop, open_holds_max=7)
    holds = [each.hold(("A", 1), ("B", 1)) for _ in range(40) for each in (one, two)]
    answers = await shop.race(*holds)
    assert statuses(answers) == {201: 12, 429: 68}
    assert (await one.used(), await two.used()) == ((5, 10), (7, 14))


async def test_the_race_catches_limits_that_are_checked_without_a_guard(postgres_url, monkeypatch):
    """Without the guard both services accept the last hold, and the race must detect it."""
    part = writes.PARTS["source_limit_changed"]
    condition = "source_limit.open_holds + new.holds_highest <= source_limit.open_holds_max"
    assert condition in part.sql
    careless = replace(part, sql=part.sql.replace(condition, "TRUE"))
    monkeypatch.setitem(writes.PARTS, "source_limit_changed", careless)
    monkeypatch.setattr(writes, "_STATEMENTS", {})
    async with (
        fresh_database(postgres_url) as url,
        running_service(url, strategy="guard") as one,
        running_service(url, strategy="guard") as other,
    ):
        shop = Shop(url, [one.client, other.client])
        await shop.put("A", 10_000)
        worst = 0
        for _ in range(20):
            source = await Source.new(shop, open_holds_max=20)
            answers = await shop.race(*(source.hold(("A", 1)) for _ in range(100)))
            worst = max(worst, statuses(answers)[201])
        assert worst > 20
