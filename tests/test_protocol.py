"""HTTP/1.1 against real servers, byte by byte: no body is lost, and every request ends.

Each test runs over plain HTTP and over TLS.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.ops import protocol
from tests.certificates import new_pair
from tests.conftest import assert_books_balance, fresh_database
from tests.raw import RawAnswer, dial, exchange, head_of, post
from tests.server import Server, running_server

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
OFFERS = {
    "h2c": H2C,
    "HTTP/2 over TLS": ("Connection: Upgrade", "Upgrade: TLS/1.3, HTTP/2.0"),
    "websocket": ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIA=="),
    "unknown": ("Upgrade: FOO/2", "Connection: close, Upgrade"),
    "two": ("Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket"),
}


@pytest.fixture(scope="module", params=["http", "https"])
def transport(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a server needs for it beside its other settings."""
    if request.param == "http":
        return {}
    pair = new_pair(tmp_path_factory.mktemp("pair"))
    return {"trusted": pair.authority.trusted(), **pair.settings}


@pytest.fixture(scope="module")
async def server(postgres_url: str, transport: dict[str, Any]) -> AsyncIterator[Server]:
    async with fresh_database(postgres_url) as url:
        with running_server(url, **transport) as started:
            await stock(started)
            yield started
        await assert_books_balance(url)


@pytest.fixture(scope="module")
async def hurried_server(postgres_url: str, transport: dict[str, Any]) -> AsyncIterator[Server]:
    """A server that waits at most a second for its clients."""
    async with fresh_database(postgres_url) as url:
        with running_server(url, module="tests.hurried", **transport) as started:
            yield started


without_tls = pytest.mark.parametrize("transport", ["http"], indirect=True)
"""For clients that close their sending side and still read: TLS ends both directions."""


async def stock(server: Server) -> None:
    async with httpx.AsyncClient(
        base_url=server.url, headers=server.headers, verify=server.trusted or True
    ) as client:
        body = {"available": 1_000_000}
        answer = await client.put("/v1/stock/S/main", json=body, headers={"If-None-Match": "*"})
        assert answer.status_code == 201


def reservation(quantity: int = 10) -> dict:
    lines = [{"sku": "S", "quantity": quantity}]
    return {"seq": uuid.uuid4().hex, "hold_seconds": 900, "lines": lines}


async def hold(server: Server) -> str:
    """Return the id of a new hold of ten units."""
    answer = await exchange(server, b"".join(post(server, "/v1/reservations", reservation())))
    assert answer.status == 201
    return answer.json()["id"]


def code_of(answer: RawAnswer | None) -> tuple[int, str]:
    assert answer is not None
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status, answer.json()["code"]


# An offer to upgrade


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("in_packets", [1, 2, 3])
async def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(server, offer, in_packets):
    id_ = await hold(server)
    body = {"lines": [{"sku": "S", "quantity": 3}]}
    head, content = post(server, f"/v1/reservations/{id_}/confirm", body, *offer)
    packets = {
        1: (head + content,),
        2: (head, content),
        3: (head[:-30], head[-30:] + content[:4], content[4:]),
    }[in_packets]
    answer = await exchange(server, *packets)
    assert answer.status == 200
    assert answer.json()["lines"][0]["confirmed"] == 3


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_a_chunked_body_after_an_offer_to_upgrade_is_read(server, offer):
    head = head_of(
        server,
        "POST",
        "/v1/reservations",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        *offer,
    )
    content = json.dumps(reservation()).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:9], content[9:]))
    answer = await exchange(server, head + chunks[:7], chunks[7:], b"0\r\n\r\n")
    assert answer.status == 201


async def test_requests_pipelined_after_an_offer_to_upgrade_are_answered(server):
    async with dial(server) as wire:
        bodies = [reservation(quantity) for quantity in (1, 2, 3)]
        pipelined = b"".join(
            b"".join(post(server, "/v1/reservations", body, *(H2C if body["lines"] else ())))
            for body in bodies
        )
        await wire.send(pipelined[:700], pipelined[700:])
        answers = [await wire.answer() for _ in bodies]
        assert [answer.json()["seq"] for answer in answers] == [body["seq"] for body in bodies]
        assert [answer.json()["lines"][0]["quantity"] for answer in answers] == [1, 2, 3]


async def test_a_body_that_looks_like_a_request_is_never_executed(server):
    inner = b"".join(post(server, "/v1/reservations", body := reservation()))
    head = head_of(server, "POST", "/v1/reservations", *H2C, length=len(inner))
    async with dial(server) as wire:
        await wire.send(head, inner)
        assert code_of(await wire.answer()) == (400, "invalid_request")
        await wire.send(head_of(server, "GET", f"/v1/reservations?seq={body['seq']}"))
        answer = await wire.answer()
        assert answer.json()["items"] == []


async def test_a_connect_request_is_refused(server):
    answer = await exchange(server, b"CONNECT inner:80 HTTP/1.1\r\nHost: inner\r\n\r\n")
    assert code_of(answer) == (405, "method_not_allowed")


# Announced bodies


@without_tls
@pytest.mark.parametrize("path", ["confirm", "cancel", "extend", "refunds"])
async def test_an_announced_body_that_does_not_arrive_is_400(server, path):
    id_ = await hold(server)
    head = head_of(server, "POST", f"/v1/reservations/{id_}/{path}", length=40)
    assert code_of(await exchange(server, head, finishes=True)) == (400, "invalid_request")
    assert code_of(await exchange(server, head, b'{"li', finishes=True)) == (400, "invalid_request")
    answer = await exchange(server, head_of(server, "GET", f"/v1/reservations/{id_}"))
    assert answer.json()["state"] == "held"


@without_tls
async def test_a_chunked_body_that_breaks_off_is_400(server):
    id_ = await hold(server)
    head = head_of(
        server,
        "POST",
        f"/v1/reservations/{id_}/confirm",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    )
    for rest, finishes in ((b"", True), (b"5\r\n{", True), (b"5\r\n{zzzzzzz\r\n", False)):
        answer = await exchange(server, head, rest, finishes=finishes)
        assert code_of(answer) == (400, "invalid_request")
    answer = await exchange(server, head_of(server, "GET", f"/v1/reservations/{id_}"))
    assert answer.json()["state"] == "held"


async def test_a_trailer_is_not_a_header(server):
    """Otherwise a body could supply the key that its head lacks."""
    head = b"POST /v1/reservations HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailer = f"0\r\nAuthorization: Bearer {server.key}\r\n\r\n".encode()
    assert code_of(await exchange(server, head + trailer)) == (401, "unauthenticated")


@without_tls
async def test_a_request_followed_by_a_half_close_is_answered(server):
    head, content = post(server, "/v1/reservations", reservation())
    assert (await exchange(server, head + content, finishes=True)).status == 201
    async with dial(server) as wire:
        await wire.send((head + content) * 2)
        wire.finish()
        assert [answer.status for answer in await wire.answers()] == [200, 200]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", id="space before a colon"),
        pytest.param(b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", id="NUL"),
        pytest.param(b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", id="URL"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", id="length"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length and chunks",
        ),
    ],
)
async def test_bytes_that_are_not_http_are_400_and_end_the_connection(server, sent):
    async with dial(server) as wire:
        await wire.send(sent)
        assert code_of(await wire.answer()) == (400, "invalid_request")
        assert await wire.answer() is None


async def test_earlier_requests_are_answered_before_the_refusal_of_a_later_one(server):
    async with dial(server) as wire:
        good = b"".join(post(server, "/v1/reservations", reservation()))
        await wire.send(good + good + b"NONSENSE\r\n\r\n" + good)
        answers = await wire.answers()
        assert [answer.status for answer in answers] == [201, 200, 400]


# Endless heads


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        pytest.param(b"A: " + b"x" * 50_000_000, (431, "headers_too_large"), id="one long line"),
        pytest.param(b"A: b\r\n" * 1_000_000, (431, "headers_too_large"), id="a million lines"),
        pytest.param(b"A" * 5_000_000, (431, "headers_too_large"), id="a long name"),
        pytest.param(b"A: " + b"," * 1_000_000, (431, "headers_too_large"), id="commas"),
        pytest.param(b"A: b\r\n" * 101 + b"\r\n", (431, "headers_too_large"), id="101 lines"),
    ],
)
async def test_an_endless_head_is_refused(server, sent, refusal):
    assert code_of(await exchange(server, b"GET /health/live HTTP/1.1\r\n", sent)) == refusal
    assert code_of(await exchange(server, b"GET /health/live HTTP/1.1\r\n" + sent)) == refusal


async def test_a_dripped_head_is_refused_once_it_is_too_long(server):
    async with dial(server) as wire:
        await wire.send(b"GET /health/live HTTP/1.1\r\n", *[b"A: " + b"x" * 1000 + b"\r\n"] * 40)
        assert code_of(await wire.answer()) == (431, "headers_too_large")


async def test_a_head_of_32_kib_is_read_however_it_is_cut(server):
    lines = [f"A{number:02}: {'x' * 480}" for number in range(65)]
    head = head_of(server, "GET", "/health/live", *lines)
    assert 31_000 < len(head) < protocol.HEAD_BYTES_MAX
    for size in (100_000, 8_000, 1_460, 700):
        packets = [head[start : start + size] for start in range(0, len(head), size)]
        assert (await exchange(server, *packets)).status == 200
    longer = head.replace(b"A00: ", b"A00: " + b"y" * 2_000)
    for size in (100_000, 8_000):
        packets = [longer[start : start + size] for start in range(0, len(longer), size)]
        assert code_of(await exchange(server, *packets)) == (431, "headers_too_large")


async def test_an_unfinished_line_of_more_than_32_kib_is_refused_at_once(server):
    for before in (b"", b"A: b\r\n"):
        sent = b"GET /health/live HTTP/1.1\r\n" + before + b"B: " + b"x" * 33_000
        assert code_of(await exchange(server, sent)) == (431, "headers_too_large")
        pipelined = head_of(server, "GET", "/health/live") + sent
        async with dial(server) as wire:
            await wire.send(pipelined)
            assert [answer.status for answer in await wire.answers()] == [200, 431]


async def test_endless_trailers_are_refused(server):
    head = b"POST /v1/reservations HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    async with dial(server) as wire:
        await wire.send(head + f"Authorization: Bearer {server.key}\r\n\r\n0\r\n".encode())
        await wire.send(*[b"A: " + b"x" * 20_000 + b"\r\n"] * 3)
        assert code_of(await wire.answer()) == (431, "headers_too_large")


@pytest.mark.parametrize("length", [8_200, 300_000, 3_000_000])
async def test_a_long_url_is_refused(server, length):
    sent = b"GET /" + b"x" * length + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    assert code_of(await exchange(server, sent)) == (414, "uri_too_long")
    assert code_of(await exchange(server, sent[:100], sent[100:])) == (414, "uri_too_long")


async def test_heads_within_the_limits_are_read(server):
    url = "/health/live?" + "x" * (protocol.URL_BYTES_MAX - 13)
    lines = [f"A{number}: {'x' * 200}" for number in range(protocol.HEAD_LINES_MAX - 2)]
    assert (await exchange(server, head_of(server, "GET", url, *lines))).status == 200


async def test_too_many_pipelined_requests_are_refused(server):
    async with dial(server) as wire:
        await wire.send(head_of(server, "GET", "/health/live") * 500)
        answers = await wire.answers()
        assert [answer.status for answer in answers] == [200] * (protocol.PIPELINED_MAX + 1) + [400]


# Requests that never end

UNFINISHED = {
    "nothing": ([], None),
    "blank lines": ([b"\r\n"] * 100, None),
    "a part of a head": ([b"GET / HT"], 408),
    "a dripped head": ([b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 90], 408),
    "no body": (["head"], 408),
    "a dripped body": (["head", *[b" "] * 90], 408),
    "a dripped chunk": (["chunked", *[b"1\r\n \r\n"] * 90], 408),
    "a body after its refusal": (["unauthorized", *[b" "] * 90], 401),
}


@pytest.mark.parametrize(("parts", "status"), UNFINISHED.values(), ids=UNFINISHED)
async def test_a_request_that_never_ends_times_out(hurried_server, parts, status):
    server = hurried_server
    heads = {
        "head": head_of(server, "POST", "/v1/reservations", length=1000),
        "chunked": head_of(
            server,
            "POST",
            "/v1/reservations",
            "Content-Type: application/json",
            "Transfer-Encoding: chunked",
        ),
        "unauthorized": b"POST /v1/reservations HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n",
    }
    async with dial(server) as wire:
        dripping = asyncio.create_task(wire.send(*[heads.get(part, part) for part in parts]))
        answers = await wire.answers()
        dripping.cancel()
        assert [answer.status for answer in answers] == ([] if status is None else [status])


async def test_a_slow_client_within_the_limits_is_served(hurried_server):
    head, content = post(hurried_server, "/v1/reservations", reservation())
    answer = await exchange(hurried_server, head[:20], head[20:], content[:20], content[20:])
    assert answer.status == 404  # the SKU does not exist, so the body was read
