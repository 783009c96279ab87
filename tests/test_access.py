"""The permissions of keys, and the data that one source may know of another."""

import functools
import re
import uuid

import pytest

from db.ledger.load import load
from db.queries import records
from service.domain.commands import Caller, Cancel, Confirm, Extend, RefundUnits, wanted_by
from service.domain.identifiers import reservation_id
from service.http.operation import operations

HOLD = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}], "hold_seconds": 900}
EXTEND = {"hold_seconds": 60}
UNKNOWN = f"/v1/reservations/{uuid.UUID(int=1)}"

OPERATIONS = [
    ("POST", "/v1/reservations", "reserve", {"json": {**HOLD, "seq": "new"}}),
    ("POST", "/v1/reservations/batch", "reserve", {"json": {"reservations": [HOLD]}}),
    ("POST", "{held}/extend", "reserve", {"json": EXTEND}),
    ("POST", "{held}/confirm", "reserve", {}),
    ("POST", "{other}/cancel", "reserve", {}),
    ("POST", "{held}/refunds", "reserve", {"json": {"seq": "1"}}),
    ("GET", "/v1/reservations", "read", {}),
    ("GET", "{held}", "read", {}),
    ("GET", "{held}/movements", "read", {}),
    ("GET", "{held}/refunds", "read", {}),
    ("GET", "{refund}", "read", {}),
    ("GET", "/v1/stock", "read", {}),
    ("GET", "/v1/stock/A", "read", {}),
    ("GET", "/v1/stock/A/main", "read", {}),
    ("GET", "/v1/stock/A/main/movements", "read", {}),
    ("GET", "/v1/audit", "read", {}),
    ("GET", "/v1/sources/us/limits", "admin", {}),
    ("PUT", "/v1/sources/us/limits", "admin", {"json": {"open_holds_max": 9}}),
    ("GET", "/v1/access-log", "admin", {}),
    ("PUT", "/v1/stock/B/main", "stock", {
        "json": {"available": 1}, "headers": {"If-None-Match": "*"}}),
    ("POST", "/v1/stock/A/main/adjustments", "stock", {
        "json": {"seq": "1", "delta": 1, "reason": "r"}}),
    ("DELETE", "/v1/stock/B/main", "stock", {}),
    ("POST", "/v1/imports?job=j", "stock", {
        "content": "C,main,1\n", "headers": {"Content-Type": "text/csv"}}),
    ("POST", "/v1/keys", "admin", {"json": {"seq": "2", "source": "s", "scopes": ["read"]}}),
    ("GET", "/v1/keys", "admin", {}),
    ("GET", "{key}", "admin", {}),
    ("POST", "{key}/rotate", "admin", {"json": {"seq": "3"}}),
    ("DELETE", "{key}", "admin", {}),
]  # fmt: skip
OF_A_RESERVATION = [
    ("GET", "", None), ("GET", "/movements", None), ("GET", "/refunds", None),
    ("GET", f"/refunds/{uuid.UUID(int=2)}", None), ("POST", "/confirm", None),
    ("POST", "/confirm", {"lines": [{"sku": "A", "quantity": 9}]}), ("POST", "/cancel", None),
    ("POST", "/extend", EXTEND), ("POST", "/refunds", {"seq": "r"}),
    ("POST", "/refunds", {"seq": "r", "lines": [{"sku": "Z", "quantity": 9}]}),
]  # fmt: skip


async def test_the_table_has_every_operation_that_needs_a_scope(service):
    ids = {"{held}": "{id}", "{other}": "{id}", "{refund}": "{id}/refunds/{refund_id}"}
    listed = set()
    for method, path, scope, _ in OPERATIONS:
        template = re.sub("/v1/stock/[AB]", "/v1/stock/{sku}", path.partition("?")[0])
        template = template.replace("{sku}/main", "{sku}/{location}")
        template = template.replace("/sources/us", "/sources/{source}")
        for name, segments in ids.items():
            template = template.replace(name, f"/v1/reservations/{segments}")
        template = template.replace("{key}", "/v1/keys/{id}")
        listed.add((method, template, scope))
    declared = {
        (each.method, each.path, each.scope)
        for each in operations(service.app)
        if each.scope is not None
    }
    assert listed == declared


async def prepare(service):
    """The addresses of reservations of source shop-eu, by name."""
    await service.stock("A", 100)
    places = {}
    for name in ("held", "other", "sold"):
        response = await service.client.post("/v1/reservations", json={**HOLD, "seq": name})
        places[name] = response.headers["Location"]
    await service.client.post(f"{places['sold']}/confirm")
    refund = await service.client.post(f"{places['sold']}/refunds", json={"seq": "0"})
    wanted = {"seq": "1", "source": "shop-us", "scopes": ["read"]}
    key = await service.client.post("/v1/keys", json=wanted)
    return places | {"refund": refund.headers["Location"], "key": key.headers["Location"]}


async def call(service, operation, places, headers):
    method, path, _, sent = operation
    more = {**sent, "headers": {**sent.get("headers", {}), **headers}}
    return await service.client.request(method, path.format(**places), **more)


async def test_every_operation_accepts_only_its_own_scope_and_admin(service):
    places = await prepare(service)
    keys = {name: await service.key("shop-eu", name) for name in ("reserve", "stock", "read")}
    everything = keys["admin"] = await service.key("shop-eu", "admin")
    before = await service.on_hand("A")
    for operation in OPERATIONS:
        for scope, headers in keys.items():
            if scope not in (operation[2], "admin"):
                refused = await call(service, operation, places, headers)
                problem = refused.json()
                assert (refused.status_code, problem["code"]) == (403, "forbidden"), operation
    assert await service.on_hand("A") == before
    for operation in OPERATIONS:
        allowed = await call(service, operation, places, keys.get(operation[2], everything))
        assert allowed.status_code < 300, (operation, allowed.text)
        as_admin = await call(service, operation, places, everything)
        assert as_admin.status_code not in (401, 403), operation


async def test_every_operation_needs_a_key(service):
    places = await prepare(service)
    before = await service.on_hand("A")
    for operation in OPERATIONS:
        for authorization in ("", "Bearer hf_unknown", "Basic x"):
            response = await call(service, operation, places, {"Authorization": authorization})
            assert response.status_code == 401, operation
            assert response.json()["code"] == "unauthenticated"
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert await service.on_hand("A") == before


async def test_the_key_is_checked_before_the_body_is_read(service):
    for headers, status in (({"Authorization": "x"}, 401), (await service.key("s", "read"), 403)):
        response = await service.client.post("/v1/reservations", content=b"{", headers=headers)
        assert response.status_code == status


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/metrics", "/schema", "/schema/openapi.json",
             "/problems/not-found"],
)  # fmt: skip
async def test_health_metrics_and_documents_need_no_key(service, path):
    del service.client.headers["Authorization"]
    assert (await service.client.get(path)).status_code == 200


async def test_a_reservation_of_another_source_looks_like_an_unknown_one(service):
    places = await prepare(service)
    before = await service.on_hand("A")
    theirs = await service.key("shop-us", "reserve", "read")
    for name in ("held", "sold"):
        for method, path, body in OF_A_RESERVATION:
            answers = [
                await service.client.request(method, f"{place}{path}", json=body, headers=theirs)
                for place in (places[name], UNKNOWN)
            ]
            bodies = [{**r.json(), "instance": None, "request_id": None} for r in answers]
            assert [r.status_code for r in answers] == [404, 404], (method, path)
            assert bodies[0] == bodies[1]
            assert bodies[0]["code"] == "not_found"
            assert places[name].rsplit("/", 1)[1] not in bodies[0]["detail"]
            assert set(answers[0].headers) == set(answers[1].headers)
    refund = await service.client.get(places["refund"], headers=theirs)
    assert refund.status_code == 404
    assert await service.on_hand("A") == before


async def test_a_list_shows_only_the_caller_s_own_reservations(service):
    await prepare(service)
    theirs = await service.key("shop-us", "reserve", "read")
    await service.client.post("/v1/reservations", json=HOLD, headers=theirs)
    listed = (await service.client.get("/v1/reservations", headers=theirs)).json()["items"]
    assert [item["source"] for item in listed] == ["shop-us"]
    everyone = (await service.client.get("/v1/reservations")).json()["items"]
    assert {item["source"] for item in everyone} == {"shop-eu", "shop-us"}
    named = await service.client.get("/v1/reservations?source=shop-eu", headers=theirs)
    assert named.status_code == 403


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
