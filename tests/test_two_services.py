"""Two services on one database: the rows that one has read can be stale when it writes."""

import asyncio

import pytest

from tests.conftest import running_service

pytestmark = pytest.mark.usefixtures("patient")

ROUNDS = 15  # without a guard, about half of the rounds fail

COUNTS = pytest.mark.parametrize("count", [1, 4])  # one request alone, or several that are merged


@pytest.fixture
async def pair(service):
    """The service and a second service on the same database."""
    async with running_service(service.url) as second:
        yield service, second


async def both(pair, ask, count):
    """Send `count` requests to each service, all at once; return sorted statuses and answers."""
    answers = await asyncio.gather(*(ask(each, n) for n in range(count) for each in pair))
    return sorted(response.status_code for response in answers), answers


@COUNTS
async def test_the_last_unit_is_sold_once(pair, count):
    service, _ = pair
    for turn in range(ROUNDS):
        sku = f"S{turn}"
        await service.stock(sku, 1)

        async def buy(each, n, sku=sku):
            return await each.reserve(f"{sku}-{n}-{id(each)}", (sku, 1))

        statuses, _ = await both(pair, buy, count)
        assert statuses == [201] + [409] * (2 * count - 1)
        assert await service.on_hand(sku) == (0, 0)


@COUNTS
async def test_equal_requests_sent_to_two_services_at_once_have_one_effect(pair, count):
    service, _ = pair
    await service.stock("A", 100)
    for turn in range(ROUNDS):

        async def buy(each, n, turn=turn):
            return await each.reserve(f"{turn}", ("A", 1), hold_seconds=900)

        statuses, answers = await both(pair, buy, count)
        assert statuses == [200] * (2 * count - 1) + [201]
        assert all(response.json() == answers[0].json() for response in answers)
    assert await service.on_hand("A") == (100 - ROUNDS, ROUNDS)


@COUNTS
async def test_of_many_replacements_of_one_version_exactly_one_succeeds(pair, count):
    service, _ = pair
    await service.stock("A", 100)
    for version in range(1, ROUNDS + 1):

        async def put(each, n, version=version):
            return await each.client.put(
                "/v1/stock/A/main", json={"available": n}, headers={"If-Match": f'"{version}"'}
            )

        statuses, _ = await both(pair, put, count)
        assert statuses == [200] + [412] * (2 * count - 1)


@COUNTS
async def test_of_many_creations_or_imports_at_once_exactly_one_succeeds(pair, count):
    for turn in range(ROUNDS):

        async def create(each, n, turn=turn):
            return await each.client.put(
                f"/v1/stock/S{turn}/main", json={"available": n}, headers={"If-None-Match": "*"}
            )

        async def load(each, n, turn=turn):
            return await each.client.post(
                f"/v1/imports?job={turn}",
                content=f"I{turn},main,1\n",
                headers={"Content-Type": "text/csv"},
            )

        assert (await both(pair, create, count))[0] == [201] + [412] * (2 * count - 1)
        assert (await both(pair, load, count))[0] == [200] * (2 * count - 1) + [201]


@COUNTS
async def test_a_transition_a_refund_and_an_adjustment_happen_once(pair, count):
    service, _ = pair
    await service.stock("A", 100)
    for turn in range(ROUNDS):
        hold = await service.reserve(f"{turn}", ("A", 2), hold_seconds=900)
        address = hold.headers["Location"]

        async def confirm(each, n, address=address):
            return await each.client.post(f"{address}/confirm")

        async def refund(each, n, address=address, turn=turn):
            return await each.client.post(f"{address}/refunds", json={"seq": f"{turn}"})

        async def adjust(each, n, turn=turn):
            body = {"seq": f"{turn}", "delta": -1, "reason": "r"}
            return await each.client.post("/v1/stock/A/main/adjustments", json=body)

        _, confirmed = await both(pair, confirm, count)
        assert [r.headers.get("Idempotency-Replayed") for r in confirmed].count(None) == 1
        assert (await both(pair, refund, count))[0] == [200] * (2 * count - 1) + [201]
        assert (await both(pair, adjust, count))[0] == [200] * (2 * count - 1) + [201]
    assert await service.on_hand("A") == (100 - ROUNDS, 0)


async def test_a_row_is_either_sold_or_deleted(pair):
    service, second = pair
    for turn in range(ROUNDS):
        await service.stock(f"S{turn}", 5)
        sold, deleted = await asyncio.gather(
            service.reserve(f"{turn}", (f"S{turn}", 1), hold_seconds=900),
            second.client.delete(f"/v1/stock/S{turn}/main"),
        )
        assert (sold.status_code, deleted.status_code) in ((201, 409), (404, 204))


async def test_a_deleted_row_keeps_no_units(pair):
    service, second = pair
    for turn in range(ROUNDS):
        await service.stock(f"S{turn}", 5)
        body = {"seq": f"{turn}", "delta": 1, "reason": "found"}
        adjusted, deleted = await asyncio.gather(
            service.client.post(f"/v1/stock/S{turn}/main/adjustments", json=body),
            second.client.delete(f"/v1/stock/S{turn}/main"),
        )
        assert deleted.status_code == 204
        assert adjusted.status_code in (201, 404)
    left = "SELECT FROM stock WHERE deleted_at IS NOT NULL AND (available, held) <> (0, 0)"
    assert await service.sql(left) == []
