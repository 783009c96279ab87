"""The permissions of keys and admins. tests/test_walls.py sweeps over every operation."""

import functools

import pytest

from db.ledger.load import load
from db.queries import records
from service.domain.commands import Caller, Cancel, Confirm, Extend, RefundUnits, wanted_by
from service.domain.identifiers import reservation_id

HOLD = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}], "hold_seconds": 900}
EXTEND = {"hold_seconds": 60}


async def prepare(service):
    """The addresses of reservations of source shop-eu, by name."""
    await service.stock("A", 100)
    places = {}
    for name in ("held", "other", "sold"):
        response = await service.client.post("/v1/reservations", json={**HOLD, "seq": name})
        places[name] = response.headers["Location"]
    await service.client.post(f"{places['sold']}/confirm")
    refund = await service.client.post(f"{places['sold']}/refunds", json={"seq": "0"})
    return places | {"refund": refund.headers["Location"]}


async def test_the_key_is_checked_before_the_body_is_read(service):
    for headers, status in (({"Authorization": "x"}, 401), (await service.key("s", "read"), 403)):
        response = await service.client.post("/v1/reservations", content=b"{", headers=headers)
        assert response.status_code == status


async def test_an_admin_changes_reservations_of_every_source_but_creates_its_own(service):
    places = await prepare(service)
    admin = await service.key("admin", "admin")
    for method, path, body in (
        ("GET", "", None), ("POST", "/extend", EXTEND), ("POST", "/confirm", None),
        ("POST", "/refunds", {"seq": "0"}), ("GET", "/refunds", None), ("GET", "/movements", None),
    ):  # fmt: skip
        response = await service.client.request(
            method, places["held"] + path, json=body, headers=admin
        )
        assert response.status_code in (200, 201), (method, path, response.text)
        if path == "/refunds" and method == "POST":
            assert response.json()["source"] == "admin"
    assert (await service.client.get(places["held"])).json()["source"] == "shop-eu"
    cancelled = await service.client.post(f"{places['other']}/cancel", headers=admin)
    assert cancelled.status_code == 200
    created = await service.client.post("/v1/reservations", json=HOLD, headers=admin)
    assert created.json()["source"] == "admin"


@pytest.mark.parametrize("scope", ["reserve", "admin"])
async def test_a_body_may_repeat_its_own_source_but_not_name_another(service, scope):
    places = await prepare(service)
    headers = await service.key("shop-eu", scope, "stock")
    adjustment = {"delta": 1, "reason": "r"}
    sold = places["sold"]
    await service.client.post(f"{places['held']}/confirm")
    for path, body in (
        ("/v1/reservations", HOLD),
        ("/v1/stock/A/main/adjustments", adjustment),
        (f"{places['held']}/refunds", {}),
    ):
        named = {**body, "seq": f"{scope}-{sold}"[:128]}
        other = {**named, "source": "shop-us"}
        refused = await service.client.post(path, json=other, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        own = {**named, "source": "shop-eu"}
        assert (await service.client.post(path, json=own, headers=headers)).status_code == 201


async def test_refunds_and_adjustments_of_two_sources_may_have_the_same_seq(service):
    await service.stock("A", 100)
    for source in ("shop-eu", "shop-us"):
        headers = await service.key(source, "reserve", "stock")
        client = service.client
        sale = {"seq": "1", "lines": [{"sku": "A", "quantity": 2}]}
        address = (await client.post("/v1/reservations", json=sale, headers=headers)).headers
        adjustment = {"seq": "1", "delta": 1, "reason": source}
        answers = [
            await client.post(f"{address['Location']}/refunds", json={"seq": "1"}, headers=headers),
            await client.post("/v1/stock/A/main/adjustments", json=adjustment, headers=headers),
        ]
        assert [r.status_code for r in answers] == [201, 201]
    assert await service.on_hand("A") == (102, 0)


async def test_two_keys_of_one_source_share_its_identities(service):
    await service.stock("A", 100)
    answers = []
    for _ in range(2):
        headers = await service.key("shop-us", "reserve")
        answers.append(await service.client.post("/v1/reservations", json=HOLD, headers=headers))
    assert [r.status_code for r in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()


async def test_no_row_of_another_sources_reservation_is_read(service, database):
    """Its 404 must not take longer than the 404 of an unknown reservation."""
    await prepare(service)
    id_ = reservation_id("shop-eu", "held")
    shop, stranger = Caller("shop-eu"), Caller("stranger")
    transitions = [
        lambda caller: Confirm(caller, id_, None),
        lambda caller: Cancel(caller, id_),
        lambda caller: Extend(caller, id_, 60),
        lambda caller: RefundUnits(caller, id_, "1", None, None),
    ]

    async def seen(command):
        return await database.read(lambda connection: load(connection, wanted_by([command])))

    for transition in transitions:
        own, foreign = await seen(transition(shop)), await seen(transition(stranger))
        assert (own.reservations.keys(), own.stock.keys()) == ({id_}, {("A", "main")})
        assert (foreign.reservations, foreign.stock) == ({}, {})
    for source, is_seen in (("shop-eu", True), ("stranger", False), (None, True)):
        read = functools.partial(records.find_reservation, id_=id_, source=source)
        assert (await database.read(read) is not None) is is_seen
