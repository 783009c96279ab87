"""The bounds of a request, to the byte: the last value inside is read, the next one is a 4xx."""

import json
from collections.abc import AsyncIterator

import pytest

from service.ops import protocol
from tests.conftest import fresh_database
from tests.raw import RawAnswer, dial, exchange, head_of, post
from tests.server import Server, running_server

HEAD = b"GET /health/live HTTP/1.1\r\n"
HOST = b"Host: h\r\n"


@pytest.fixture(scope="module")
async def server(postgres_url: str) -> AsyncIterator[Server]:
    async with fresh_database(postgres_url) as url:
        with running_server(url) as started:
            yield started


def code_of(answer: RawAnswer) -> tuple[int, str | None]:
    return answer.status, answer.json().get("code")


def test_the_times_are_those_of_the_documents():
    """tests/test_protocol.py waits for shorter ones."""
    assert (protocol.HEAD_SECONDS_MAX, protocol.BODY_SECONDS_MAX) == (10, 30)


@pytest.mark.parametrize("lines", [1, 5, 40])
@pytest.mark.parametrize("is_cut", [False, True])
async def test_headers_of_32_kib_are_read_and_one_byte_more_is_431(server, lines, is_cut):
    room = 32 * 1024 - len(HOST)
    each = room // lines
    for extra, expected in ((0, (200, None)), (1, (431, "headers_too_large"))):
        sizes = [each] * (lines - 1)
        sizes.append(room - sum(sizes) + extra)
        block = HOST + b"".join(b"A%02d: " % n + b"x" * (size - 7) + b"\r\n"
                                for n, size in enumerate(sizes))  # fmt: skip
        assert len(block) == 32 * 1024 + extra
        sent = HEAD + block + b"\r\n"
        packets = [sent[:10_000], sent[10_000:20_000], sent[20_000:]] if is_cut else [sent]
        answer = await exchange(server, *packets)
        assert code_of(answer) == expected, (lines, extra)


@pytest.mark.parametrize("lines", [100, 101])
async def test_a_hundred_header_lines_are_read(server, lines):
    sent = HEAD + HOST + b"A: b\r\n" * (lines - 1) + b"\r\n"
    expected = (200, None) if lines == 100 else (431, "headers_too_large")
    assert code_of(await exchange(server, sent)) == expected


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_a_url_of_8_kib_is_read_and_one_byte_more_is_414(server, method):
    for length, is_read in ((8192, True), (8193, False)):
        url = "/health/live?" + "x" * (length - 13)
        answer = await exchange(server, head_of(server, method, url))
        assert (answer.status != 414) == is_read
    assert code_of(answer) == (414, "uri_too_long")


def nested(levels: int, brackets: str) -> str:
    opening, closing = brackets.split()
    return opening * levels + "1" + closing * levels


@pytest.mark.parametrize("brackets", ["[ ]", '{"a": }', '[{"a": }]'])
async def test_json_of_16_levels_is_read_and_17_are_too_deep(server, brackets):
    """A body is the first level. Deep values are wrong anyway, so only the message differs."""
    per_step = brackets.count("[") + brackets.count("{")
    for levels in (14, 15, 16, 18, 100, 5_000):
        depth = 1 + levels // per_step * per_step
        text = f'{{"seq": "1", "metadata": {nested(levels // per_step, brackets)}}}'
        head = head_of(server, "POST", "/v1/reservations", length=len(text))
        answer = await exchange(server, head + text.encode())
        assert code_of(answer) == (400, "invalid_request")
        (first, *_) = answer.json()["errors"]
        is_deep = first == {"path": "body", "message": "is nested more than 16 deep"}
        assert is_deep == (depth > 16), (levels, first)


@pytest.mark.parametrize("text", ['"[[[[[[[[[[[[[[[[[[[["', '"\\"[[[[[[[[[[[[[[[[[[[["'])
async def test_brackets_in_strings_are_no_levels(server, text):
    body = f'{{"seq": {text}, "lines": []}}'
    head = head_of(server, "POST", "/v1/reservations", length=len(body))
    answer = await exchange(server, head + body.encode())
    assert answer.json()["errors"][0]["path"] == "lines"


@pytest.mark.parametrize("path", ["/v1/reservations/batch", "/v1/reservations"])
async def test_a_megabyte_of_brackets_is_400(server, path):
    for text in ("[" * 1_000_000, '{"a":' * 200_000, '{"reservations": ' + "[" * 900_000):
        head = head_of(server, "POST", path, length=len(text))
        answer = await exchange(server, head + text.encode())
        assert code_of(answer) == (400, "invalid_request")
        assert answer.json()["errors"][0]["path"] == "body"


async def test_the_server_is_well_after_all_of_this(server):
    async with dial(server) as wire:
        for _ in range(3):
            await wire.send(*post(server, "/v1/reservations", {"seq": "1"}))
            answer = await wire.answer()
            assert answer is not None
            assert json.loads(answer.body)["code"] == "invalid_request"
