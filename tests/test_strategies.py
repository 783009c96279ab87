"""Each of the seven strategies has the exact number of winners, no deadlock and one effect.

Two applications each have their own pool, coalescer and locks, like two servers.
"""

import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from db.session.database import Database
from db.strategies import open_strategy
from db.strategies.guard import Guard
from db.vocabulary import StrategyName
from service.domain.commands import SetStock
from service.engine.ledger import Ledger
from tests.conftest import assert_books_balance, fresh_database, running_service, settings_of
from tests.counting import conflicts
from tests.server import running_server
from tests.test_distributed_locks import order
from tests.test_races import Shop, statuses


@pytest.fixture(scope="module", params=list(StrategyName))
def settings(request: Any, brokers: Any) -> dict[str, str]:
    """The settings of each strategy in turn."""
    return {"strategy": request.param, **settings_of(request.param, brokers)}


@pytest.fixture(scope="module")
async def open_shop(settings: dict[str, str], postgres_url: str) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(fresh_database(postgres_url))
        services = [
            await stack.enter_async_context(running_service(url, **settings)) for _ in range(2)
        ]
        yield Shop(url, [service.client for service in services])


@pytest.fixture
async def shop(open_shop: Shop) -> AsyncIterator[Shop]:
    """The shop with new SKUs for each test; check at the end that its books balance."""
    yield replace(open_shop, prefix=f"{uuid.uuid4().hex[:8]}-")
    await assert_books_balance(open_shop.url)


async def cross(shop: Shop, count: int) -> None:
    """Send orders of which half name their SKUs in reverse; there are enough units for all."""
    for sku in "AB":
        await shop.put(sku, 2 * count)
    ways = itertools.cycle([[("A", 1), ("B", 1)], [("B", 1), ("A", 1)]])
    answers = await shop.reserve_all(*(shop.order(n, *next(ways)) for n in range(count)))
    assert statuses(answers) == {201: count}
    assert [await shop.stock(sku) for sku in "AB"] == [(count, 0)] * 2


async def test_of_thirty_buyers_of_seven_units_exactly_seven_get_one(shop):
    await shop.put("A", 7)
    answers = await shop.reserve_all(*(shop.order(n, ("A", 1)) for n in range(30)))
    assert statuses(answers) == {201: 7, 409: 23}
    assert await shop.stock("A") == (0, 0)


async def test_an_order_after_the_last_unit_is_refused_and_stays_refused(shop):
    await shop.put("A", 1)
    await shop.reserve("first", ("A", 1))
    orders = [shop.order(n, ("A", 1)) for n in range(20)]
    first, again = await shop.reserve_all(*orders), await shop.reserve_all(*orders)
    assert statuses(first) == statuses(again) == {409: 20}
    assert all("Idempotency-Replayed" in answer.headers for answer in again)


async def test_crossed_orders_all_succeed_without_a_deadlock(shop):
    before = conflicts("deadlock")
    await cross(shop, 40)
    assert conflicts("deadlock") == before


async def test_crossed_holds_are_confirmed_cancelled_and_refunded_at_once(shop):
    """A step names only a reservation: the stock rows to lock are known once it is loaded."""
    for sku in "AB":
        await shop.put(sku, 40)
    ways = itertools.cycle([[("A", 1), ("B", 1)], [("B", 1), ("A", 1)]])
    holds = [await shop.reserve(n, *next(ways), hold_seconds=60) for n in range(10)]
    answers = await shop.step(holds, "confirm", "cancel")
    assert statuses(answers) == {200: 10, 409: 10}
    confirmed = sum(answer.status_code == 200 for answer in answers[::2])
    assert [await shop.stock(sku) for sku in "AB"] == [(40 - confirmed, 0)] * 2


async def test_thirty_two_equal_requests_have_one_effect_and_one_answer(shop):
    await shop.put("A", 100)
    answers = await shop.reserve_all(*(shop.order(1, ("A", 3), hold_seconds=60),) * 32)
    assert statuses(answers) == {201: 1, 200: 31}
    assert len({answer.content for answer in answers}) == 1
    assert await shop.stock("A") == (97, 3)


async def test_crossed_orders_all_succeed_over_two_workers(settings, postgres_url):
    async with fresh_database(postgres_url) as url:
        with running_server(url, workers=2, **settings) as server:
            doors = [
                httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30)
                for _ in range(8)  # separate connections, so that both workers get some of them
            ]
            async with AsyncExitStack() as stack:
                for door in doors:
                    await stack.enter_async_context(door)
                await cross(Shop(url, doors), 40)
        await assert_books_balance(url)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("version", "stock_changed"), ("serializable", "serialization"), ("guard", None)],
)
async def test_an_overtaken_order_succeeds_and_runs_again_only_if_its_strategy_needs_it(
    database_url, monkeypatch, name, kind
):
    """With the strategy `guard` it need not: there are enough units for both orders."""
    database, strategy = Database(database_url, pool_size=4), open_strategy(name)
    other = Ledger(database, Guard())
    await other.execute([SetStock("A", "main", 9, None, None, None)])
    load = strategy.load
    turns = iter([True])

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        snapshot = await load(*arguments, **options)
        if next(turns, False):
            await other.execute([order("quick")])
        return snapshot

    monkeypatch.setattr(strategy, "load", overtaken)
    kinds = ["stock_changed", "serialization"]
    before = [conflicts(each) for each in kinds]
    outcome = (await Ledger(database, strategy).execute([order("slow")]))[0]
    await database.close()
    assert outcome.effect == "created"
    lost = [now - then for now, then in zip(map(conflicts, kinds), before, strict=True)]
    assert lost == [each == kind for each in kinds]


@pytest.mark.parametrize("name", ["redis", "zookeeper"])
def test_a_strategy_without_its_lock_server_names_the_missing_setting(name):
    with pytest.raises(ValueError, match=f"HOLDFAST_{name.upper()}"):
        open_strategy(name)
