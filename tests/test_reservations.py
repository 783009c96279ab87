"""The life of a reservation over HTTP: reserve, confirm, cancel, extend, expire."""

import asyncio
from datetime import datetime

import pytest

OVERDUE = "UPDATE reservation SET expires_at = clock_timestamp()"


async def hold(service, *lines, seq="1", seconds=900):
    response = await service.reserve(seq, *lines, hold_seconds=seconds)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


async def confirm(service, address, *lines):
    body = {"lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines]}
    return await service.client.post(f"{address}/confirm", json=body)


async def movements(service, address):
    items = (await service.client.get(f"{address}/movements")).json()["items"]
    return [(m["kind"], m["sku"], m["available_delta"], m["held_delta"]) for m in items]


def is_replay(response):
    return response.headers.get("Idempotency-Replayed") == "true"


async def test_a_hold_has_exactly_the_members_of_the_contract(service):
    await service.stock("A", 10)
    body = (await service.reserve("1", ("A", 2), hold_seconds=900, metadata={"cart": "1"})).json()
    assert body == {
        "id": body["id"], "source": "shop-eu", "seq": "1", "state": "held", "version": 1,
        "lines": [{"sku": "A", "location": "main", "quantity": 2, "confirmed": 0, "refunded": 0}],
        "hold_seconds": 900, "expires_at": body["expires_at"], "created_at": body["created_at"],
        "updated_at": body["created_at"], "metadata": {"cart": "1"},
    }  # fmt: skip
    until = datetime.fromisoformat(body["expires_at"])
    since = datetime.fromisoformat(body["created_at"])
    assert (until - since).total_seconds() == 900
    assert body["expires_at"].endswith("Z")
    assert await service.on_hand("A") == (8, 2)


async def test_without_hold_seconds_the_units_are_sold_at_once(service):
    await service.stock("A", 10)
    response = await service.reserve("1", ("A", 2))
    body = response.json()
    assert (body["state"], body["hold_seconds"], body["expires_at"]) == ("confirmed", None, None)
    assert (body["lines"][0]["quantity"], body["lines"][0]["confirmed"]) == (2, 2)
    assert await service.on_hand("A") == (8, 0)
    assert await movements(service, response.headers["Location"]) == [("reserve", "A", -2, 0)]


async def test_a_reservation_takes_all_lines_or_none(service):
    await service.stock("A", 10)
    await service.stock("B", 1)
    response = await service.reserve("1", ("A", 2), ("B", 2))
    assert response.status_code == 409
    assert [line["sku"] for line in response.json()["shortages"]] == ["B"]
    assert (await service.on_hand("A"), await service.on_hand("B")) == ((10, 0), (1, 0))


async def test_lines_of_the_same_stock_row_are_added_up_before_the_check(service):
    await service.stock("A", 3)
    response = await service.reserve("1", ("A", 2), ("A", 2))
    assert response.status_code == 409
    assert response.json()["shortages"][0]["requested"] == 4


async def test_locations_are_separate_and_names_are_case_sensitive(service):
    await service.stock("A", 1)
    await service.stock("A", 1, location="north")
    await service.stock("a", 1)
    lines = [{"sku": "A", "location": "north", "quantity": 1}, {"sku": "a", "quantity": 1}]
    body = {"seq": "1", "lines": lines}
    assert (await service.client.post("/v1/reservations", json=body)).status_code == 201
    assert await service.on_hand("A") == (1, 0)
    assert await service.on_hand("A", "north") == await service.on_hand("a") == (0, 0)


async def test_values_equal_to_the_limits_are_accepted(service):
    await service.stock("A", 1_000_000_000_000)
    metadata = {str(n).rjust(64, "k"): "v" * 256 for n in range(16)}
    longest = "x" * 128
    await service.stock(longest, 1_000_000_000_000, location=longest)
    largest = {"sku": longest, "location": longest, "quantity": 1_000_000}
    body = {"seq": "y" * 128, "lines": [largest] * 1000, "metadata": metadata}
    response = await service.client.post("/v1/reservations", json={**body, "hold_seconds": 604_800})
    assert response.status_code == 201
    assert response.json()["metadata"] == metadata
    assert response.json()["lines"][0]["quantity"] == 1_000_000_000


async def test_the_last_unit_goes_to_exactly_one_of_many(service):
    await service.stock("A", 1)
    answers = await asyncio.gather(*(service.reserve(f"{n}", ("A", 1)) for n in range(20)))
    assert sorted(r.status_code for r in answers) == [201] + [409] * 19
    assert await service.on_hand("A") == (0, 0)


@pytest.mark.parametrize("sent", [{}, {"json": {}}, {"json": {"lines": None}}])
async def test_confirm_sells_the_held_units(service, sent):
    await service.stock("A", 10)
    address = await hold(service, ("A", 3))
    response = await service.client.post(f"{address}/confirm", **sent)
    body = response.json()
    assert (response.status_code, body["state"], body["version"]) == (200, "confirmed", 2)
    assert not is_replay(response)
    assert response.headers["ETag"] == '"2"'
    assert body["lines"][0]["confirmed"] == 3
    assert await service.on_hand("A") == (7, 0)
    assert body == (await service.client.get(address)).json()


async def test_confirming_a_part_releases_the_rest_in_the_same_step(service):
    await service.stock("A", 10)
    await service.stock("B", 10)
    address = await hold(service, ("A", 3), ("B", 2))
    response = await confirm(service, address, ("A", 1))
    lines = {line["sku"]: line for line in response.json()["lines"]}
    assert response.status_code == 200
    assert (lines["A"]["quantity"], lines["A"]["confirmed"]) == (3, 1)
    assert (lines["B"]["quantity"], lines["B"]["confirmed"]) == (2, 0)
    assert (await service.on_hand("A"), await service.on_hand("B")) == ((9, 0), (10, 0))
    assert await movements(service, address) == [
        ("reserve", "A", -3, 3),
        ("reserve", "B", -2, 2),
        ("confirm", "A", 2, -3),
        ("confirm", "B", 2, -2),
    ]


async def test_a_confirm_is_a_repetition_if_it_has_the_same_effect(service):
    await service.stock("A", 10)
    address = await hold(service, ("A", 3))
    first = await confirm(service, address, ("A", 1), ("A", 2))
    for again in (
        await service.client.post(f"{address}/confirm"),
        await confirm(service, address, ("A", 3)),
    ):
        assert (again.status_code, is_replay(again)) == (200, True)
        assert again.json() == first.json()
    other = await confirm(service, address, ("A", 2))
    assert (other.status_code, other.json()["code"]) == (409, "illegal_transition")
    assert len(await movements(service, address)) == 2


async def test_confirming_all_after_a_part_is_illegal(service):
    await service.stock("A", 10)
    address = await hold(service, ("A", 3))
    await confirm(service, address, ("A", 1))
    assert is_replay(await confirm(service, address, ("A", 1)))
    assert (await service.client.post(f"{address}/confirm")).status_code == 409


async def test_confirming_a_sale_is_a_repetition(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 3))).headers["Location"]
    assert is_replay(await service.client.post(f"{address}/confirm"))
    assert (await confirm(service, address, ("A", 2))).status_code == 409


@pytest.mark.parametrize("lines", [[("A", 4)], [("A", 2), ("A", 2)], [("A", 1), ("B", 1)]])
async def test_confirming_more_than_is_held_is_422(service, lines):
    await service.stock("A", 10)
    await service.stock("B", 10)
    address = await hold(service, ("A", 3))
    response = await confirm(service, address, *lines)
    assert (response.status_code, response.json()["code"]) == (422, "exceeds_held")
    assert await service.on_hand("A") == (7, 3)


async def test_confirming_no_lines_is_400(service):
    await service.stock("A", 10)
    address = await hold(service, ("A", 3))
    response = await confirm(service, address)
    assert (response.status_code, response.json()["errors"][0]["path"]) == (400, "lines")


async def test_cancel_returns_all_units_once(service):
    await service.stock("A", 10)
    address = await hold(service, ("A", 3))
    first = await service.client.post(f"{address}/cancel")
    again = await service.client.post(f"{address}/cancel")
    assert (first.status_code, again.status_code) == (200, 200)
    assert (is_replay(first), is_replay(again)) == (False, True)
    assert first.json() == again.json()
    assert first.json()["state"] == "cancelled"
    assert await service.on_hand("A") == (10, 0)
    assert await movements(service, address) == [("reserve", "A", -3, 3), ("cancel", "A", 3, -3)]


async def test_extend_sets_the_deadline_to_now_plus_hold_seconds(service):
    await service.stock("A", 10)
    address = await hold(service, ("A", 3), seconds=604_800)
    response = await service.client.post(f"{address}/extend", json={"hold_seconds": 60})
    body = response.json()
    assert (response.status_code, body["state"], body["version"]) == (200, "held", 2)
    until = datetime.fromisoformat(body["expires_at"])
    assert (until - datetime.fromisoformat(body["updated_at"])).total_seconds() == 60
    assert body["hold_seconds"] == 604_800
    replay = await service.reserve("1", ("A", 3), hold_seconds=604_800)
    assert is_replay(replay)
    assert replay.json() == body


async def reach(service, state):
    """Bring a reservation of units of A into a state; return its address."""
    await service.stock("A", 10)
    quantity = 11 if state == "rejected" else 3
    response = await service.reserve("1", ("A", quantity), hold_seconds=900)
    id_ = response.json().get("id") or response.json()["reservation_id"]
    address = f"/v1/reservations/{id_}"
    if state == "expired":
        await service.sql(OVERDUE)
    if state in ("confirmed", "refunded", "expired"):
        await service.client.post(f"{address}/confirm")
    if state == "refunded":
        await service.client.post(f"{address}/refunds", json={"seq": "all"})
    if state == "cancelled":
        await service.client.post(f"{address}/cancel")
    assert (await service.client.get(address)).json()["state"] == state
    return address


COMMANDS = {
    "confirm": ("confirm", None),
    "cancel": ("cancel", None),
    "extend": ("extend", {"hold_seconds": 900}),
    "refund": ("refunds", {"seq": "r"}),
}
ALLOWED = {
    "held": ["cancel", "confirm", "extend"], "confirmed": ["refund"], "cancelled": [],
    "expired": [], "refunded": [], "rejected": [],
}  # fmt: skip
REPEATED = {("confirmed", "confirm"), ("cancelled", "cancel")}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", ALLOWED)
async def test_eight_equal_steps_at_once_in_every_state(service_without_sweeper, state, command):
    service = service_without_sweeper
    address = await reach(service, state)
    before = (await service.client.get(address)).json(), await service.on_hand("A")
    path, body = COMMANDS[command]
    answers = await asyncio.gather(
        *(service.client.post(f"{address}/{path}", json=body) for _ in range(8))
    )
    statuses = sorted(r.status_code for r in answers)
    if command in ALLOWED[state]:
        assert [s for s in statuses if s >= 300] == []
        assert [is_replay(r) for r in answers].count(False) == (8 if command == "extend" else 1)
        per_step = "SELECT count(*) AS n FROM movement WHERE kind = $1"
        expected = 0 if command == "extend" else 1
        assert (await service.sql(per_step, command))[0]["n"] == expected
        return
    if (state, command) in REPEATED:
        assert (statuses, [is_replay(r) for r in answers]) == ([200] * 8, [True] * 8)
    else:
        for response in answers:
            problem = response.json()
            assert (response.status_code, problem["code"]) == (409, "illegal_transition")
            assert problem["state"] == state
            assert sorted(problem["allowed"]) == ALLOWED[state]
    assert before == ((await service.client.get(address)).json(), await service.on_hand("A"))


async def test_of_confirm_and_cancel_at_once_exactly_one_wins(service):
    await service.stock("A", 100)
    for n in range(10):
        address = await hold(service, ("A", 1), seq=f"{n}")
        confirmed, cancelled = await asyncio.gather(
            service.client.post(f"{address}/confirm"),
            service.client.post(f"{address}/cancel"),
        )
        assert sorted((confirmed.status_code, cancelled.status_code)) == [200, 409]


async def test_the_time_that_a_request_waited_for_space_in_the_queue_is_deducted(
    service, monkeypatch
):
    await service.stock("A", 1)
    coalescer, told = service.app.worker.coalescer, []
    submit = coalescer.submit

    async def wait_for_space():
        return 2.5

    async def note(commands, *, waited_seconds):
        told.append(waited_seconds)
        return await submit(commands)

    monkeypatch.setattr(coalescer, "wait_for_space", wait_for_space)
    monkeypatch.setattr(coalescer, "submit", note)
    assert (await service.reserve("1", ("A", 1))).status_code == 201
    assert told == [2.5]
