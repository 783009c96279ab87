"""What belongs to another source looks exactly like nothing: a sweep over every operation."""

import asyncio
import functools
import re
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from db.vocabulary import Scope
from service.http import openapi
from service.http.app import Application
from service.http.operation import Success, operation
from service.http.operation import operations as declared_by
from service.http.page_route import Entry
from service.http.resources import STATUS
from service.http.routes import operations
from service.http.uses import Logged
from service.settings import Settings
from tests import sweep
from tests.conftest import running_service
from tests.sweep import (
    HOLD,
    MARK,
    MOVEMENTS,
    NOWHERE,
    REQUESTS,
    Ask,
    check_complete,
    described,
    of,
    plain,
    recorded,
    served,
    settle,
)

SCOPES = [scope for scope in Scope if scope != Scope.ADMIN]


@dataclass
class World:
    """A service with two sources."""

    service: Any
    places: dict[str, str]
    """The addresses of the things of the first source, which is `alpha`."""
    own: dict[str, str]
    """The addresses of the things of the second source, which is `beta`."""
    keys: dict[str, dict[str, str]]
    """Headers with a key of the second source, one for each scope."""
    statements: list[str]

    async def send(self, method: str, ask: Ask, places: dict[str, str], key: Any) -> httpx.Response:
        sent = {**ask.sent, "headers": {**ask.sent.get("headers", {}), **key}}
        return await self.service.client.request(method, ask.path.format(**places), **sent)

    async def told(self, *request: Any) -> tuple[Any, list[str]]:
        """Return the answer, and the statements that it took."""
        await asyncio.sleep(0)
        self.statements.clear()
        answer = plain(await self.send(*request))
        await asyncio.sleep(0)  # statements are recorded by callbacks
        return answer, list(self.statements)


@pytest.fixture
async def world(database_url, monkeypatch, patient):
    """Nothing but the requests runs statements: keys are looked up once, and no service runs."""
    for name in ("BELIEVED_SECONDS", "RENEWED_SECONDS"):
        monkeypatch.setattr(f"service.http.access.lookups.{name}", 3_600.0)
    monkeypatch.setattr("service.http.app.background_services", lambda *_, **__: [])
    with recorded(monkeypatch) as statements:
        async with running_service(database_url) as service:
            await service.stock("A", 1_000)
            wanted = {"seq": "1", "source": "beta", "scopes": ["read"]}
            key = await service.client.post("/v1/keys", json=wanted)
            alpha = await service.key(MARK, "reserve")
            places = await settle(service.client, alpha, MARK)
            places["key"] = key.headers["Location"]
            own = await settle(service.client, await service.key("beta", "reserve"), "beta")
            keys = {scope: await service.key("beta", scope) for scope in Scope}
            for headers in keys.values():
                await service.client.get("/v1/stock", headers=headers)  # looks the key up
            yield World(service, places, own, keys, statements)


async def test_every_operation_is_in_the_sweep_and_only_the_listed_ones_are_open(service):
    check_complete(await served(service.client))


def planted(id_, **declared):
    """Return the route of an operation with that id."""

    async def handler(call):
        """Return nothing."""

    handler.__name__ = id_
    answer = Success(200, "Planted.", STATUS)
    return operation("GET", f"/v1/{id_}", "Planted", answer, **declared)(handler)


def found_with(route):
    """Return the operations of the document of an application with one more route."""
    routes = [*operations.ROUTES, route]
    app = Application(route_handlers=routes, openapi_config=None, logging_config=None)
    app.settings = Settings()
    return described(openapi.document(app))


@pytest.mark.parametrize("declared", [{}, {"scope": Scope.READ, "logged": Logged.NO_USE}])
def test_a_new_operation_fails_the_sweep_until_its_requests_are_known(declared, monkeypatch):
    before = [each for each in found_with(planted("get_stock")) if each.id != "get_stock"]
    monkeypatch.setattr(sweep, "REQUESTS", {each.id: REQUESTS[each.id] for each in before})
    check_complete(before)
    with pytest.raises(AssertionError, match=r"tests/sweep\.py"):
        check_complete(found_with(planted("get_planted", **declared)))


def test_a_new_operation_without_a_scope_fails_the_sweep_even_if_its_requests_are_known(
    monkeypatch,
):
    found = found_with(planted("get_planted"))
    monkeypatch.setattr(sweep, "REQUESTS", {each.id: [] for each in found})
    with pytest.raises(AssertionError, match="lacks its scope"):
        check_complete(found)
    check_complete(found_with(planted("get_planted", scope="read", logged=Logged.NO_USE)))


@pytest.mark.parametrize("declared", [{"scope": Scope.READ}, {"logged": Logged.NO_USE}])
def test_an_operation_with_a_scope_must_declare_what_the_access_log_notes(declared):
    with pytest.raises(TypeError, match="must declare `scope` and `logged`"):
        planted("get_planted", **declared)


async def test_stock_keys_and_limits_are_in_the_access_log_at_each_use(service):
    for each in declared_by(service.app):
        first = each.path.split("/")[2] if each.path.startswith("/v1/") else ""
        is_listed = first in ("stock", "imports", "keys", "sources", "webhooks")
        assert (each.logged is Logged.EACH_USE) == is_listed, each.id
        if "{id}" in each.path and first == "reservations":
            assert each.logged is Logged.OTHER_SOURCES, each.id


async def test_each_operation_accepts_no_key_but_one_with_its_scope(world):
    for each in await served(world.service.client):
        for ask in REQUESTS[each.id]:
            for value in ("", "Bearer hf_unknown", "Basic x"):
                answer = await world.send(each.method, ask, world.places, {"Authorization": value})
                expected = 200 if each.scope is None else 401
                assert answer.status_code == expected, (each.id, ask)
            for scope in SCOPES:
                answer = await world.send(each.method, ask, NOWHERE, world.keys[scope])
                is_refused = each.scope not in (None, scope)
                assert (answer.status_code == 403) == is_refused, (each.id, ask, scope)
                if is_refused:
                    assert answer.json()["code"] == "forbidden"


async def test_things_of_another_source_look_exactly_like_nothing(world):
    """Status, body, headers and statements are the same, for each scope."""
    before = await world.service.on_hand("A")
    compared = 0
    for each in await served(world.service.client):
        for ask in REQUESTS[each.id]:
            if not ask.names_a_thing or each.scope == Scope.ADMIN:
                continue
            for scope in SCOPES:
                theirs, nothing = [
                    await world.told(each.method, ask, places, world.keys[scope])
                    for places in (world.places, NOWHERE)
                ]
                assert theirs == nothing, (each.id, ask, scope)
                if scope == each.scope:
                    assert theirs[0][0] == 404, (each.id, ask)
                    assert theirs[1], "the statements were not recorded"
                    compared += 1
    assert compared > 15
    assert await world.service.on_hand("A") == before


async def test_a_refund_of_another_source_is_not_found_under_an_own_reservation(world):
    refund = world.places["refund"].rpartition("/")[2]
    answers = [
        await world.told("GET", of(f"{{sold}}/refunds/{id_}"), world.own, world.keys["read"])
        for id_ in (refund, uuid.UUID(int=2))
    ]
    assert answers[0] == answers[1]
    assert answers[0][0][0] == 404


async def test_no_answer_to_another_source_has_a_trace_of_the_first(world):
    """Neither with their own requests nor with cursors of the first source's lists."""
    admin = world.keys["admin"]
    secrets = [MARK, *(place.rpartition("/")[2] for place in world.places.values())]
    for each in await served(world.service.client):
        for ask in REQUESTS[each.id]:
            asks = [ask]
            if each.is_list:
                page = await world.send(each.method, ask, world.places, admin)
                cursor = page.json()["next_cursor"]
                mark = "&" if "?" in ask.path else "?"
                asks += [Ask(f"{ask.path}{mark}cursor={cursor}", ask.sent)] if cursor else []
            for one in asks:
                for scope in SCOPES:
                    answer = await world.send(each.method, one, NOWHERE, world.keys[scope])
                    text = answer.text.replace(answer.request.url.path, "")
                    text = text.replace(f'"seq":"{MARK}-', "").replace(f'"job":"{MARK}-', "")
                    for secret in secrets:
                        assert secret not in text, (each.id, one, scope)


async def test_a_list_shows_only_own_reservations_from_any_cursor_on(world):
    read, admin = world.keys["read"], world.keys["admin"]
    client = world.service.client
    everything = (await client.get("/v1/reservations", headers=admin)).json()["items"]
    assert {item["source"] for item in everything} == {MARK, "beta"}
    cursor, seen = None, 0
    for _ in everything:
        query = {"limit": 1, **({"cursor": cursor} if cursor else {})}
        theirs = (await client.get("/v1/reservations", params=query, headers=read)).json()["items"]
        assert {item["source"] for item in theirs} <= {"beta"}
        seen += len(theirs)
        page = await client.get("/v1/reservations", params=query, headers=admin)
        cursor = page.json()["next_cursor"]
    assert seen >= 3


@pytest.mark.parametrize("query", [f"seq={MARK}-sold", f"seq={MARK}-sold&state=confirmed&sku=A"])
async def test_a_filter_that_fits_things_of_another_source_finds_nothing(world, query):
    found, nothing = [
        await world.told("GET", of(f"/v1/reservations?{text}"), {}, world.keys["read"])
        for text in (query, query.replace(MARK, "nobody"))
    ]
    assert found == nothing
    assert found[0][1] == {"items": [], "next_cursor": None}


async def test_a_filter_by_another_source_is_refused_whether_it_exists_or_not(world):
    answers = [
        await world.told("GET", of(f"/v1/reservations?source={name}"), {}, world.keys["read"])
        for name in (MARK, "nobody")
    ]
    assert answers[0] == answers[1]
    assert answers[0][0][0] == 403
    assert answers[0][1] == []


async def test_a_seq_that_another_source_has_used_is_as_new_as_any_other(world):
    """In reservations, batches, refunds, adjustments and imports."""
    line = [{"sku": "A", "quantity": 1}]
    requests = {
        "/v1/reservations": lambda seq: {"json": {**HOLD, "seq": seq}},
        "/v1/reservations/batch": lambda seq: {
            "json": {"reservations": [{**HOLD, "seq": f"{seq}-batch"}]}
        },
        "{sold}/refunds": lambda seq: {"json": {"seq": seq, "lines": line}},
        "/v1/stock/A/main/adjustments": lambda seq: {
            "json": {"seq": seq, "delta": 1, "reason": "r"}
        },
    }
    alpha, beta = [await world.service.key(source, *SCOPES) for source in (MARK, "beta")]
    sale = {"seq": "sale", "lines": [{"sku": "A", "quantity": 9}]}
    for key, places in ((alpha, world.places), (beta, world.own)):
        sold = await world.service.client.post("/v1/reservations", json=sale, headers=key)
        places["sold"] = sold.headers["Location"]
    for path, sent in requests.items():
        await world.send("POST", Ask(path, sent("used")), world.places, alpha)
        (told, statements), (told_of_new, statements_of_new) = [
            await world.told("POST", Ask(path, sent(seq)), world.own, beta)
            for seq in ("used", "new")
        ]
        assert statements == statements_of_new, path
        assert (told[0], told[2]) == (told_of_new[0], told_of_new[2]), path
        assert told[0] == (200 if "batch" in path else 201)
    for key in (alpha, beta):
        ask = of("/v1/imports?job=used", content="X,main,1\n", headers={"Content-Type": "text/csv"})
        assert (await world.send("POST", ask, {}, key)).status_code == 201


async def test_movements_of_stock_name_a_reservation_only_to_those_who_may_see_it(world):
    ids = {name: place.rpartition("/")[2] for name, place in world.places.items()}
    own = {place.split("/")[3] for place in world.own.values()}
    theirs = {ids["held"], ids["other"], ids["sold"]}
    seen = {}
    for name, key in (("own", world.keys["read"]), ("all", world.keys["admin"])):
        items = (await world.service.client.get(f"{MOVEMENTS}?limit=500", headers=key)).json()
        seen[name] = items["items"]
    assert {each["reservation_id"] for each in seen["own"]} == own | {None}
    assert {each["reservation_id"] for each in seen["all"]} == own | theirs | {None}
    for mine, full in zip(seen["own"], seen["all"], strict=True):
        assert {**mine, "reservation_id": None} == {**full, "reservation_id": None}
        assert mine["reservation_id"] in (None, full["reservation_id"])


async def test_an_audit_names_a_reservation_only_to_those_who_may_see_it(world):
    ids = {places["held"].rpartition("/")[2]: name
           for name, places in (("theirs", world.places), ("own", world.own))}  # fmt: skip
    await world.service.sql(
        "UPDATE reservation SET state = 'expired' WHERE id = ANY($1::uuid[])", list(ids)
    )
    seen = {}
    for name in ("read", "admin"):
        found = await world.service.client.get("/v1/audit", headers=world.keys[name])
        named = [each.get("reservation_id") for each in found.json()["drift"]]
        seen[name] = {ids.get(id_) for id_ in named if id_ is not None}
        assert len(named) > 1
    assert seen == {"read": {"own"}, "admin": {"own", "theirs"}}
    await world.service.sql(
        "UPDATE reservation SET state = 'held' WHERE id = ANY($1::uuid[])", list(ids)
    )


async def test_the_requests_of_the_sweep_reach_things_that_exist(world):
    """The first source gets no 404 for them: the sweep compares with something."""
    alpha = await world.service.key(MARK, *SCOPES)
    for each in await served(world.service.client):
        for ask in REQUESTS[each.id]:
            key = world.keys["admin"] if each.scope == Scope.ADMIN else alpha
            answer = await world.send(each.method, ask, world.places, key)
            assert answer.status_code not in (400, 401, 403, 404, 429), (each.id, ask, answer.text)


PAGES = {
    ("GET", "/sign-in"): "/sign-in",
    ("POST", "/sign-in"): "/sign-in",
    ("POST", "/sign-out"): "/sign-out",
    ("GET", "/"): "/",
    ("GET", "/reserve"): "/reserve",
    ("POST", "/reserve"): "/reserve",
    ("POST", "/refund"): "/refund",
    ("GET", "/reservations/{id}"): "{sold}",
    ("GET", "/reservations/{id}/refunds/{refund_id}"): "{refund}",
    ("GET", "/assets/{name}"): "/assets/page.css",
}
"""The address of each route of the page, by its method and its first path."""


def page_routes(app):
    """Return the declarations of the routes that the page has in an application."""
    handlers = [handler for each in app.routes for handler in getattr(each, "route_handlers", ())]
    handlers = [each for each in handlers if each.http_methods != {"OPTIONS"}]  # Litestar's own
    assert all(("operation" in each.opt) != ("page" in each.opt) for each in handlers)
    return list({each.opt["page"]: None for each in handlers if "page" in each.opt})


def on_page(places):
    return {name: place.removeprefix("/v1") for name, place in places.items()}


async def browser(world, *scopes, source="beta"):
    """A browser that is signed in with a new key, or that is not signed in."""
    transport = httpx.ASGITransport(world.service.app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://holdfast")
    if scopes:
        headers = await world.service.key(source, *scopes)
        key = headers["Authorization"].removeprefix("Bearer ")
        assert (await client.post("/sign-in", data={"key": key})).status_code == 303
    return client


async def test_every_route_is_an_operation_or_a_declared_route_of_the_page(service):
    found = page_routes(service.app)
    assert {(each.method, each.paths[0]) for each in found} == set(PAGES)
    is_open = {each.paths[0] for each in found if each.entry is Entry.OPEN}
    assert is_open == {"/sign-in", "/sign-out", "/reserve", "/assets/{name}"}


async def test_each_route_of_the_page_admits_only_sessions_that_its_entry_names(world):
    may_enter = {
        Entry.SESSION: set(SCOPES), Entry.RESULT: {Scope.READ}, Entry.RESERVE: {Scope.RESERVE},
    }  # fmt: skip
    own = on_page(world.own)
    nobody = await browser(world)
    sessions = {scope: await browser(world, scope) for scope in SCOPES}
    for each in page_routes(world.service.app):
        address = PAGES[each.method, each.paths[0]].format(**own)
        if each.entry is Entry.OPEN:
            continue
        answer = await nobody.request(each.method, address)
        is_get = each.method == "GET"
        assert (answer.status_code, answer.headers.get("location")) == (
            (303, "/sign-in") if is_get else (401, None)
        ), each
        for scope, session in sessions.items():
            answer = await session.request(each.method, address, data=None if is_get else {"a": ""})
            told = "This needs a key with the scope" in answer.text
            assert told == (scope not in may_enter[each.entry]), (each, scope)
            if told:
                assert answer.status_code == 403
    for session in (nobody, *sessions.values()):
        await session.aclose()


async def test_on_the_page_things_of_another_source_look_exactly_like_nothing(world):
    for scopes in (("read", "reserve"), ("read",), ("reserve",), ("stock",)):
        client = await browser(world, *scopes)

        async def told(path, client=client, **form):
            await asyncio.sleep(0)
            world.statements.clear()
            answer = await client.request("POST" if form else "GET", path, data=form or None)
            await asyncio.sleep(0)
            text = answer.text.replace(answer.headers["x-request-id"], "ID")
            return answer.status_code, text, list(world.statements)

        for each in page_routes(world.service.app):
            path = PAGES[each.method, each.paths[0]]
            if path.startswith("{"):
                theirs, nothing = [
                    await told(path.format(**on_page(places))) for places in (world.places, NOWHERE)
                ]
                assert theirs == nothing, (path, scopes)
                assert theirs[0] == 404
                assert theirs[2]
        await client.aclose()


async def test_a_refund_form_does_not_tell_things_of_another_source_from_nothing(world):
    client = await browser(world, "read", "reserve")
    token_in = functools.partial(re.search, r'name="token" value="([^"]+)"')
    answers = []
    names = [
        (world.places["sold"].rpartition("/")[2], NOWHERE["sold"].rpartition("/")[2]),
        (f"{MARK}-sold", "nobody-sold"),
    ]
    for pair in names:
        told = []
        for name in pair:
            token = token_in((await client.get("/")).text)[1]
            await asyncio.sleep(0)
            world.statements.clear()
            answer = await client.post("/refund", data={"token": token, "reservation": name})
            await asyncio.sleep(0)
            text = answer.text.replace(name, "NAME")
            text = text.replace(answer.headers["x-request-id"], "ID")
            new = token_in(text)[1]
            told.append((answer.status_code, text.replace(new, "TOKEN"), list(world.statements)))
        answers.append(told)
    for theirs, nothing in answers:
        assert theirs == nothing
        assert theirs[0] == 404
    await client.aclose()
