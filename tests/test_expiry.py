"""The deadline is exact, with and without a sweeper."""

import asyncio
from unittest.mock import Mock

import pytest

from service.engine import background, sweeper
from tests.sessions import session

OVERDUE = "UPDATE reservation SET expires_at = clock_timestamp() WHERE seq = $1"


async def hold(service, *lines, seq="1"):
    response = await service.reserve(seq, *lines, hold_seconds=900)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_a_transition_after_the_deadline_finds_the_hold_expired(
    service_without_sweeper, command
):
    service = service_without_sweeper
    await service.stock("A", 3)
    address = await hold(service, ("A", 3))
    await service.sql(OVERDUE, "1")
    body = {"hold_seconds": 60} if command == "extend" else {}
    for _ in range(2):
        response = await service.client.post(f"{address}/{command}", json=body)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (409, "illegal_transition")
        assert (problem["state"], problem["allowed"]) == ("expired", [])
    assert await service.on_hand("A") == (3, 0)
    items = (await service.client.get(f"{address}/movements")).json()["items"]
    assert [movement["kind"] for movement in items] == ["reserve", "expire"]


async def test_a_get_does_not_change_an_overdue_hold(service_without_sweeper):
    service = service_without_sweeper
    await service.stock("A", 3)
    address = await hold(service, ("A", 3))
    await service.sql(OVERDUE, "1")
    assert (await service.client.get(address)).json()["state"] == "held"
    assert await service.on_hand("A") == (0, 3)


async def test_a_dead_sweeper_never_makes_stock_look_sold_out(service_without_sweeper):
    service = service_without_sweeper
    await service.stock("A", 3)
    await service.stock("B", 1)
    overdue = await hold(service, ("A", 3), ("B", 1))
    await service.sql(OVERDUE, "1")
    assert (await service.reserve("2", ("A", 2))).status_code == 201
    assert (await service.client.get(overdue)).json()["state"] == "expired"
    assert (await service.on_hand("A"), await service.on_hand("B")) == ((1, 0), (1, 0))


async def test_a_reservation_that_is_still_refused_counts_the_units_taken_back(
    service_without_sweeper,
):
    service = service_without_sweeper
    await service.stock("A", 3)
    await hold(service, ("A", 2))
    await service.sql(OVERDUE, "1")
    refused = await service.reserve("2", ("A", 4))
    assert refused.status_code == 409
    assert refused.json()["shortages"][0]["available"] == 3
    assert await service.on_hand("A") == (3, 0)


async def test_only_overdue_holds_are_taken_back(service_without_sweeper):
    service = service_without_sweeper
    await service.stock("A", 4)
    await hold(service, ("A", 2), seq="overdue")
    open_ = await hold(service, ("A", 2), seq="open")
    await service.sql(OVERDUE, "overdue")
    assert (await service.reserve("2", ("A", 3))).status_code == 409
    assert (await service.reserve("3", ("A", 2))).status_code == 201
    assert (await service.client.get(open_)).json()["state"] == "held"


async def test_an_adjustment_takes_overdue_holds_back_too(service_without_sweeper):
    service = service_without_sweeper
    await service.stock("A", 3)
    await hold(service, ("A", 3))
    await service.sql(OVERDUE, "1")
    body = {"seq": "1", "delta": -3, "reason": "stolen"}
    response = await service.client.post("/v1/stock/A/main/adjustments", json=body)
    assert response.status_code == 201
    assert await service.on_hand("A") == (0, 0)


async def test_an_extended_hold_stays_held(service_without_sweeper):
    service = service_without_sweeper
    await service.stock("A", 3)
    address = await hold(service, ("A", 3))
    await service.client.post(f"{address}/extend", json={"hold_seconds": 604_800})
    assert (await service.reserve("2", ("A", 1))).status_code == 409
    assert (await service.client.get(address)).json()["state"] == "held"


async def test_many_requests_at_once_take_the_units_of_an_overdue_hold_back_once(
    service_without_sweeper,
):
    service = service_without_sweeper
    await service.stock("A", 3)
    await hold(service, ("A", 3))
    await service.sql(OVERDUE, "1")
    answers = await asyncio.gather(*(service.reserve(f"r{n}", ("A", 1)) for n in range(10)))
    assert sorted(r.status_code for r in answers) == [201] * 3 + [409] * 7
    assert len(await service.sql("SELECT FROM movement WHERE kind = 'expire'")) == 1


async def test_the_sweeper_gives_units_back_without_a_request(service):
    await service.stock("A", 3)
    address = await hold(service, ("A", 3))
    await service.sql(OVERDUE, "1")
    async with asyncio.timeout(10):
        while (await service.client.get(address)).json()["state"] == "held":
            pass
    assert (await service.client.get(address)).json()["state"] == "expired"
    assert await service.on_hand("A") == (3, 0)


async def test_a_sweeper_that_dies_of_an_unforeseen_error_starts_again(service, monkeypatch):
    await service.stock("A", 3)
    await hold(service, ("A", 3))
    sweep, died = sweeper.sweep, asyncio.Event()

    async def die_once(*arguments):
        if not died.is_set():
            died.set()
            raise RuntimeError("planned")
        return await sweep(*arguments)

    monkeypatch.setattr(background, "log", Mock())  # drawing the traceback takes a second
    monkeypatch.setattr(sweeper, "sweep", die_once)
    async with asyncio.timeout(20):
        await died.wait()
        await service.sql(OVERDUE, "1")
        while await service.on_hand("A") != (3, 0):
            pass
    background.log.exception.assert_called_once()


async def test_a_confirm_that_waits_for_a_lock_until_after_the_deadline_is_refused(
    service_without_sweeper,
):
    service = service_without_sweeper
    await service.stock("A", 3)
    address = await hold(service, ("A", 3))
    async with session(service.database) as transaction:
        other = transaction.connection
        await other.exec_driver_sql("SELECT FROM stock FOR UPDATE")
        await service.sql(
            "UPDATE reservation SET expires_at = clock_timestamp() + interval '0.3 s'"
        )
        confirming = asyncio.create_task(service.client.post(f"{address}/confirm"))
        await other.exec_driver_sql(
            "SELECT pg_sleep_until(expires_at + interval '1 ms') FROM reservation"
        )
        assert not confirming.done()
        await transaction.roll_back()
    response = await confirming
    assert (response.status_code, response.json()["state"]) == (409, "expired")
    assert await service.on_hand("A") == (3, 0)
