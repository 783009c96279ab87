"""The operator's page over raw HTTP: sessions, and the one-time tokens of its forms."""

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from service.domain.commands import Caller
from service.domain.errors import Forbidden
from service.domain.identifiers import reservation_id
from service.http.page import sessions
from service.http.page.sessions import Session
from service.input.proxies import TrustedProxies
from tests.conftest import running_service

COOKIE = re.compile(r"^(?P<name>\S+?)=(?P<value>[^;]*); (?P<attributes>.*)$")


@asynccontextmanager
async def browser(service, **headers):
    """A client that sends no key and keeps its cookies."""
    transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://holdfast", headers=headers
    ) as client:
        yield client


async def sign_in(service, client, *scopes, source="shop-eu"):
    """Sign a browser in with a new key; return the key."""
    headers = await service.key(source, *(scopes or ("read", "reserve")))
    key = headers["Authorization"].removeprefix("Bearer ")
    answer = await client.post("/sign-in", data={"key": key})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return key


@pytest.fixture
async def operator(service):
    """A browser that is signed in with a key with the scopes read and reserve."""
    async with browser(service) as client:
        await sign_in(service, client)
        yield client


async def token_of(client, path="/"):
    """Return the token in the forms of a page."""
    html = (await client.get(path)).text
    found = set(re.findall(r'name="token" value="([^"]+)"', html))
    assert len(found) == 1, html
    return found.pop()


async def form(client, **fields):
    """Return the fields of a completed reserve form."""
    return {"token": await token_of(client), "sku": "A", "quantity": "2", **fields}


async def reservations(service):
    return (await service.client.get("/v1/reservations")).json()["items"]


# Sessions


async def test_a_visitor_without_a_session_sees_only_the_sign_in_page(service):
    async with browser(service) as client:
        for path in ("/", f"/reservations/{reservation_id('shop-eu', '1')}"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        page = await client.get("/sign-in")
        assert page.status_code == 200
        assert '<label for="key">' in page.text
        assert (await client.post("/reserve", data={"token": "x"})).status_code == 401


async def test_a_key_signs_in_and_its_session_signs_out(service):
    await service.stock("A", 5)
    async with browser(service) as client:
        await sign_in(service, client)
        page = await client.get("/")
        assert page.status_code == 200
        assert "shop-eu" in page.text
        answer = await client.post("/sign-out", data={"token": await token_of(client)})
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        assert (await client.get("/")).status_code == 303
        again = await client.post("/sign-out", data={"token": "x"})
        assert again.status_code == 303  # as after a double click on the button


async def test_signing_out_ends_the_session_even_for_a_copied_cookie(service):
    async with browser(service) as client, browser(service) as thief:
        await sign_in(service, client)
        thief.cookies = httpx.Cookies(dict(client.cookies))
        assert (await thief.get("/")).status_code == 200
        await client.post("/sign-out", data={"token": await token_of(client)})
        assert (await thief.get("/")).status_code == 303


@pytest.mark.parametrize("key", ["hf_nonsense", "", "hf_'\"<script>"])
async def test_a_wrong_key_is_refused_with_a_page(service, key):
    async with browser(service) as client:
        answer = await client.post("/sign-in", data={"key": key})
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text
        assert "<script" not in answer.text


@pytest.mark.parametrize(
    ("headers", "name", "secure"),
    [({}, "holdfast", False), ({"X-Forwarded-Proto": "https"}, "__Host-holdfast", True)],
)
async def test_the_cookie_is_restricted_to_this_site_and_to_http(service, headers, name, secure):
    service.app.worker.proxies = TrustedProxies("127.0.0.1")
    async with browser(service, **headers) as client:
        key = (await service.key("shop-eu", "read"))["Authorization"].removeprefix("Bearer ")
        answer = await client.post("/sign-in", data={"key": key})
        cookie = COOKIE.match(answer.headers["set-cookie"])
        assert cookie is not None
        assert cookie["name"] == name
        attributes = {"Path=/", "HttpOnly", "SameSite=Strict"} | ({"Secure"} if secure else set())
        assert set(cookie["attributes"].split("; ")) == attributes


async def test_behind_tls_only_the_cookie_with_the_host_prefix_is_accepted(service, operator):
    """A cookie that plain HTTP or another host could have set is ignored."""
    service.app.worker.proxies = TrustedProxies("127.0.0.1")
    answer = await operator.get("/", headers={"X-Forwarded-Proto": "https"})
    assert answer.status_code == 303


async def test_neither_a_cookie_nor_a_token_is_stored_in_the_database(service, operator):
    await service.stock("A", 5)
    sent = await form(operator)
    assert (await operator.post("/reserve", data=sent)).status_code == 303
    token, secret = sent["token"], operator.cookies["holdfast"]
    stored = await service.sql("SELECT r::text AS row FROM reservation AS r")
    stored += await service.sql("SELECT s::text AS row FROM page_session AS s")
    everything = "".join(row["row"] for row in stored)
    for value in (token, secret):
        assert value not in everything
        assert value.encode().hex() not in everything


async def test_opening_a_page_writes_no_row(service, operator):
    """The tokens of forms need no rows, however often the page is opened."""
    tables = await service.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )

    async def rows():
        return [
            (await service.sql(f"SELECT count(*) FROM {table['relname']}"))[0][0]
            for table in tables
        ]

    before = await rows()
    tokens = {await token_of(operator) for _ in range(5)}
    assert len(tokens) == 5
    assert await rows() == before


async def test_a_revoked_key_ends_its_sessions(service, operator):
    assert (await operator.get("/")).status_code == 200
    sent = await form(operator)
    await service.sql("UPDATE api_key SET revoked_at = now() WHERE 'admin' <> ALL (scopes)")
    assert (await operator.get("/")).status_code == 303
    assert (await operator.post("/reserve", data=sent)).status_code == 401


async def test_an_expired_key_ends_its_sessions_and_can_not_sign_in(service):
    async with browser(service) as client:
        key = await sign_in(service, client, "read")
        assert (await client.get("/")).status_code == 200
        await service.sql("UPDATE api_key SET expires_at = clock_timestamp() WHERE last_used_at"
                          " IS NOT NULL AND 'admin' <> ALL (scopes)")  # fmt: skip
        assert (await client.get("/")).headers["location"] == "/sign-in"
        async with asyncio.timeout(10):  # a look-up is trusted for half a second
            while (await client.post("/sign-in", data={"key": key})).status_code != 401:
                await asyncio.sleep(0.1)


async def test_the_page_counts_as_a_use_of_the_key(service, operator):
    aged = "UPDATE api_key SET last_used_at = last_used_at - interval '2 minutes'"
    fresh = "SELECT 1 FROM api_key WHERE last_used_at > clock_timestamp() - interval '1 minute'"
    await service.sql(aged)
    assert await service.sql(fresh) == []
    await operator.get("/")
    async with asyncio.timeout(10):
        while await service.sql(fresh) == []:
            await asyncio.sleep(0.01)


async def test_a_session_expires(service, operator):
    await service.sql("UPDATE page_session SET expires_at = now()")
    assert (await operator.get("/")).status_code == 303


async def test_signing_in_deletes_expired_sessions(service, operator):
    await service.sql("UPDATE page_session SET expires_at = now()")
    await sign_in(service, operator)
    assert (await service.sql("SELECT count(*) FROM page_session"))[0][0] == 1


# The scopes of a key


async def test_a_key_with_only_the_scope_read_sees_no_forms(service):
    await service.stock("A", 5)
    async with browser(service) as client:
        await sign_in(service, client, "read")
        page = await client.get("/")
        assert ">A<" in page.text
        assert 'action="/reserve"' not in page.text
        sent = {"token": await token_of(client), "sku": "A", "quantity": "1"}
        for path in ("/reserve", "/refund"):
            assert (await client.post(path, data=sent)).status_code == 403
    assert await reservations(service) == []


async def test_a_key_with_only_the_scope_reserve_sees_its_own_results_and_no_stock(service):
    await service.stock("SECRET", 5)
    await service.stock("A", 5)
    api = (await service.reserve("by-api", ("A", 1))).json()
    async with browser(service) as client:
        await sign_in(service, client, "reserve")
        assert "SECRET" not in (await client.get("/")).text
        answer = await client.post("/reserve", data=await form(client))
        assert (await client.get(answer.headers["location"])).status_code == 200
        assert (await client.get(f"/reservations/{api['id']}")).status_code == 403


async def test_a_key_with_another_scope_can_sign_in_but_not_reserve(service):
    async with browser(service) as client:
        await sign_in(service, client, "stock")
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/reserve", data={"token": "x"})).status_code == 403


async def test_a_reservation_of_another_source_is_not_found(service, operator):
    await service.stock("A", 5)
    mine = (await service.reserve("1", ("A", 1))).json()["id"]
    async with browser(service) as other:
        await sign_in(service, other, source="shop-us")
        theirs = await other.get(f"/reservations/{mine}")
        nothing = await other.get(f"/reservations/{reservation_id('x', 'y')}")
        assert theirs.status_code == nothing.status_code == 404
        assert theirs.text.split("</header>")[1] == nothing.text.split("</header>")[1]
        for name in (mine, "1"):
            sent = {"token": await token_of(other), "reservation": name}
            assert (await other.post("/refund", data=sent)).status_code == 404
    assert (await operator.get(f"/reservations/{mine}")).status_code == 200


# The list of stock


async def test_stock_is_found_by_prefix_and_low_stock_is_marked(service, operator):
    await service.stock("AB-1", 5, name="<b>White & holder</b>")
    await service.stock("AB-2", 3, low_stock_at=3)
    await service.stock("AC-1", 0)
    await service.stock("A%", 7)
    page = (await operator.get("/")).text
    assert "&lt;b&gt;White &amp; holder&lt;/b&gt;" in page
    assert (page.count(">low<"), page.count(">sold out<")) == (1, 1)
    found = (await operator.get("/?sku_prefix=AB")).text
    assert ("AB-1" in found, "AB-2" in found, "AC-1" in found) == (True, True, False)
    assert "AB-1" not in (await operator.get("/?sku_prefix=AB&low=true")).text
    literal = (await operator.get("/?sku_prefix=A%25")).text
    assert ("A%<" in literal, "AB-1" in literal) == (True, False)


async def test_a_long_list_continues_on_the_next_page(service, operator):
    rows = "".join(f"S{n:03},main,1\n" for n in range(60))
    csv = f"sku,location,available\n{rows}"
    await service.client.post(
        "/v1/imports?job=1", content=csv, headers={"Content-Type": "text/csv"}
    )
    first = (await operator.get("/?sku_prefix=S")).text
    link = re.search(r'href="([^"]+)">Next page', first)
    assert link is not None
    second = (await operator.get(link[1].replace("&amp;", "&"))).text
    skus = re.findall(r'scope="row">(S\d+)', first) + re.findall(r'scope="row">(S\d+)', second)
    assert skus == [f"S{n:03}" for n in range(60)]


async def test_pages_load_nothing_from_other_hosts_and_run_no_script(service, operator):
    page = await operator.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    for address in re.findall(r'(?:href|src|action)="([^"]+)"', page.text):
        assert address.startswith(("/", "#"))
    assert "style=" not in page.text
    for address in re.findall(r'"(/assets/[^"]+)"', page.text):
        assert (await operator.get(address)).status_code == 200


async def test_every_input_has_a_label(service, operator):
    for page in ((await operator.get("/")).text, (await operator.get("/sign-in")).text):
        labels = set(re.findall(r'<label for="([^"]+)"', page))
        inputs = re.findall(r'<input id="([^"]+)"', page)
        assert inputs
        assert set(inputs) == labels


# Forms to reserve and to refund


async def test_a_form_sells_units_or_holds_them(service, operator):
    await service.stock("A", 10)
    sold = await operator.post("/reserve", data=await form(operator))
    held = await operator.post("/reserve", data=await form(operator, hold_seconds="900"))
    assert [sold.status_code, held.status_code] == [303, 303]
    assert await service.on_hand("A") == (6, 2)
    assert ">confirmed<" in (await operator.get(sold.headers["location"])).text
    assert "Held until" in (await operator.get(held.headers["location"])).text


async def test_a_refusal_for_lack_of_stock_is_shown_as_a_result(service, operator):
    await service.stock("A", 1)
    sent = await form(operator)
    first = await operator.post("/reserve", data=sent)
    await service.client.post(
        "/v1/stock/A/main/adjustments", json={"seq": "1", "delta": 9, "reason": "found"}
    )
    second = await operator.post("/reserve", data=sent)
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    assert ">rejected<" in (await operator.get(first.headers["location"])).text
    assert await service.on_hand("A") == (10, 0)


@pytest.mark.parametrize("named", ["id", "seq"])
async def test_a_form_refunds_a_part_or_all_units(service, operator, named):
    await service.stock("A", 10)
    sale = (await service.reserve("sale", ("A", 5))).json()
    for quantity, available in (("2", 7), ("", 10)):
        sent = {
            "token": await token_of(operator),
            "reservation": sale[named],
            "quantity": quantity,
            "reason": "<torn>",
        }
        answer = await operator.post("/refund", data=sent)
        assert answer.status_code == 303
        assert "&lt;torn&gt;" in (await operator.get(answer.headers["location"])).text
        assert await service.on_hand("A") == (available, 0)
    again = await operator.post("/refund", data={**sent, "token": await token_of(operator)})
    assert again.status_code == 409
    assert "Nothing was changed" in again.text


async def test_a_form_refunds_the_line_that_it_names(service, operator):
    await service.stock("A", 5)
    await service.stock("B", 5)
    await service.reserve("sale", ("A", 2), ("B", 2))
    sent = {"token": await token_of(operator), "reservation": "sale", "quantity": "1"}
    assert (await operator.post("/refund", data=sent)).status_code == 400
    assert (await operator.post("/refund", data={**sent, "sku": "B"})).status_code == 303
    assert (await service.on_hand("A"), await service.on_hand("B")) == ((3, 0), (4, 0))


@pytest.mark.parametrize("name", ["", "x\x00", "x\u200b", "\u202ex", "y" * 129])
async def test_the_name_of_a_reservation_follows_the_rules_of_names(service, operator, name):
    sent = {"token": await token_of(operator), "reservation": name}
    answer = await operator.post("/refund", data=sent)
    assert answer.status_code == 400
    assert "Reservation: " in answer.text


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"quantity": "0"}, 400, "Quantity: "),
        ({"quantity": "1.5"}, 400, "Quantity: "),
        ({"quantity": "9" * 5000}, 400, "Quantity: "),
        ({"quantity": ""}, 400, "Quantity: "),
        ({"hold_seconds": "-1"}, 400, "Hold, in seconds: "),
        ({"sku": ""}, 400, "SKU: "),
        ({"sku": "A\x00"}, 400, "SKU: "),
        ({"sku": "A\u200b"}, 400, "SKU: must not end with the invisible U+200B"),
        ({"location": ".."}, 400, "Location: "),
        ({"location": "\ufeffmain"}, 400, "Location: must not begin with the invisible U+FEFF"),
        ({"sku": "<i>nothing</i>"}, 404, "&lt;i&gt;nothing&lt;/i&gt; at main"),
    ],
)
async def test_a_refused_form_is_shown_again_with_its_values(
    service, operator, fields, status, told
):
    await service.stock("A", 5)
    sent = await form(operator, hold_seconds="60")
    answer = await operator.post("/reserve", data={**sent, **fields})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert told in answer.text
    assert await reservations(service) == []
    assert (await operator.post("/reserve", data=sent)).status_code == 303  # nothing was consumed


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"token=%ff", "application/x-www-form-urlencoded", 400),
        (b"token=\xff", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 50, "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b'{"token": 1}', "application/json", 415),
        (b"token=1", "text/plain", 415),
    ],
)
async def test_an_error_is_shown_as_a_page(service, operator, content, media_type, status):
    for path in ("/reserve", "/refund"):
        answer = await operator.post(path, content=content, headers={"Content-Type": media_type})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.startswith("<!doctype html>")


async def test_a_browser_can_return_to_a_refused_form(operator):
    for path in ("/reserve", "/refund", "/sign-out"):
        assert (await operator.get(path)).headers["location"] == "/"


# One-time tokens


async def test_a_form_that_is_sent_twice_has_one_effect_and_one_result(service, operator):
    await service.stock("A", 10)
    sent = await form(operator)
    first = await operator.post("/reserve", data=sent)
    second = await operator.post("/reserve", data=sent)
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert len(await reservations(service)) == 1
    assert await service.on_hand("A") == (8, 0)


async def test_a_refund_that_is_sent_twice_returns_the_units_once(service, operator):
    await service.stock("A", 10)
    await service.reserve("sale", ("A", 5))
    sent = {"token": await token_of(operator), "reservation": "sale", "quantity": "2"}
    answers = [await operator.post("/refund", data=sent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    assert await service.on_hand("A") == (7, 0)


async def test_a_form_that_is_sent_again_with_other_values_changes_nothing(service, operator):
    await service.stock("A", 10)
    sent = await form(operator)
    first = await operator.post("/reserve", data=sent)
    answer = await operator.post("/reserve", data={**sent, "quantity": "5"})
    assert answer.status_code == 422
    assert f'href="{first.headers["location"]}"' in answer.text
    assert await service.on_hand("A") == (8, 0)


@pytest.mark.parametrize("token", ["", "forged", "x" * 43, "ü", "a b"])
async def test_a_forged_token_is_forbidden(service, operator, token):
    await service.stock("A", 10)
    await service.reserve("sale", ("A", 1))
    answers = [
        await operator.post("/reserve", data={**await form(operator), "token": token}),
        await operator.post("/refund", data={"reservation": "sale", "token": token}),
        await operator.post("/sign-out", data={"token": token}),
    ]
    assert [answer.status_code for answer in answers] == [403] * 3
    assert await service.on_hand("A") == (9, 0)
    assert (await operator.get("/")).status_code == 200


@pytest.mark.parametrize("used", [False, True])
async def test_a_token_of_another_session_is_forbidden(service, operator, used):
    """A session of the same source can't use it either, not even to see the first result."""
    await service.stock("A", 10)
    sent = await form(operator)
    if used:
        assert (await operator.post("/reserve", data=sent)).status_code == 303
    async with browser(service) as other:
        await sign_in(service, other)
        assert (await other.post("/reserve", data=sent)).status_code == 403
    assert len(await reservations(service)) == used


async def test_a_token_for_another_action_is_forbidden(service):
    """The token of a read-only session is valid only to sign out."""
    await service.stock("A", 10)
    async with browser(service) as client:
        await sign_in(service, client, "read")
        sent = {"token": await token_of(client), "sku": "A", "quantity": "1"}
        await service.sql("UPDATE api_key SET scopes = '{read,reserve}' WHERE scopes = '{read}'")
        assert (await client.post("/reserve", data=sent)).status_code == 403
        assert (await client.post("/sign-out", data=sent)).status_code == 303
    assert await reservations(service) == []


async def test_a_token_that_expired_unused_is_forbidden(service, operator, monkeypatch):
    await service.stock("A", 10)
    sent = await form(operator)
    monkeypatch.setattr(sessions, "TOKEN_LIFETIME", timedelta(seconds=-1))
    assert (await operator.post("/reserve", data=sent)).status_code == 403
    assert (await operator.post("/sign-out", data=sent)).status_code == 403
    assert await reservations(service) == []


async def test_a_token_that_expired_after_its_use_shows_the_first_result(
    service, operator, monkeypatch
):
    await service.stock("A", 10)
    sent = await form(operator)
    first = await operator.post("/reserve", data=sent)
    monkeypatch.setattr(sessions, "TOKEN_LIFETIME", timedelta(seconds=-1))
    second = await operator.post("/reserve", data=sent)
    assert second.headers["location"] == first.headers["location"]


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://holdfast"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://holdfast:8080"},
    {"Origin": "http://holdfast.evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_form_from_another_site_is_forbidden(service, operator, headers):
    await service.stock("A", 10)
    sent = await form(operator)
    for path in ("/reserve", "/refund", "/sign-out", "/sign-in"):
        assert (await operator.post(path, data=sent, headers=headers)).status_code == 403
    assert await reservations(service) == []
    own = {"Sec-Fetch-Site": "same-origin", "Origin": "http://holdfast"}
    assert (await operator.post("/reserve", data=sent, headers=own)).status_code == 303


async def test_equal_forms_sent_to_two_services_at_once_have_one_effect(service, operator):
    await service.stock("A", 100)
    async with (
        running_service(service.url) as second,
        browser(second) as beside,
    ):
        beside.cookies = httpx.Cookies(dict(operator.cookies))
        for turn in range(1, 9):
            sent = await form(operator)
            answers = await asyncio.gather(
                *(client.post("/reserve", data=sent) for client in (operator, beside) * 2)
            )
            assert {answer.status_code for answer in answers} == {303}
            assert len({answer.headers["location"] for answer in answers}) == 1
            assert await service.on_hand("A") == (100 - 2 * turn, 0)


async def test_equal_refunds_sent_to_two_services_at_once_have_one_effect(service, operator):
    await service.stock("A", 100)
    await service.reserve("sale", ("A", 50))
    async with (
        running_service(service.url) as second,
        browser(second) as beside,
    ):
        beside.cookies = httpx.Cookies(dict(operator.cookies))
        for turn in range(1, 9):
            sent = {"token": await token_of(operator), "reservation": "sale", "quantity": "1"}
            answers = await asyncio.gather(
                *(client.post("/refund", data=sent) for client in (operator, beside) * 2)
            )
            assert {answer.status_code for answer in answers} == {303}
            assert len({answer.headers["location"] for answer in answers}) == 1
            assert await service.on_hand("A") == (50 + turn, 0)


# The content of a token


def test_the_seq_of_a_token_follows_the_contract():
    token = session().read_token("reserve", session().issue_token("reserve"))
    assert re.fullmatch("page-[0-9a-f]{64}", token.seq)


def session(secret: str = "secret") -> Session:
    return Session(secret, Caller("us"), frozenset({"reserve"}))


def test_two_tokens_have_different_seqs():
    seqs = [session().read_token("reserve", session().issue_token("reserve")).seq for _ in "12"]
    assert seqs[0] != seqs[1]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda token: token[:-1] + chr(ord(token[-1]) ^ 1), id="signature"),
        pytest.param(lambda token: "f" + token[1:], id="time"),
        pytest.param(lambda token: token.replace("refund", "reserve"), id="action"),
        pytest.param(lambda token: token.rpartition(".")[0], id="no signature"),
        pytest.param(lambda token: token.rpartition(".")[2], id="only a signature"),
        pytest.param(lambda token: "." + token.rpartition(".")[2], id="empty content"),
    ],
)
def test_a_token_that_was_changed_is_refused(change):
    token = session().issue_token("reserve", "refund")
    assert not session().read_token("refund", token).is_expired
    with pytest.raises(Forbidden):
        session().read_token("refund", change(token))


def test_a_token_belongs_to_one_session_and_its_actions():
    token = session().issue_token("sign-out")
    for other, action in ((session("other"), "sign-out"), (session(), "reserve")):
        with pytest.raises(Forbidden):
            other.read_token(action, token)
