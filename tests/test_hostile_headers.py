"""No header, path or query makes the service answer 500 or log a failure."""

import uuid
from urllib.parse import quote

import pytest
import structlog

from service.domain.errors import InvalidRequest, NotAcceptable, UnsupportedMediaType
from service.http.page.sessions import is_own_origin
from service.input.headers import (
    check_acceptable,
    check_media_type,
    cookie,
    idempotency_key,
    matches,
    quality,
    version,
)
from service.input.proxies import TrustedProxies
from tests.test_page import browser, sign_in

UNKNOWN = f"/v1/reservations/{uuid.UUID(int=1)}"
LONG = 200_000

NAMES = [
    "Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Length",
    "Content-Type", "Cookie", "Expect", "Host", "Idempotency-Key", "If-Match", "If-None-Match",
    "Origin", "Range", "Sec-Fetch-Site", "TE", "Transfer-Encoding", "Upgrade", "X-Forwarded-For",
    "X-Forwarded-Proto", "X-Request-Id",
]  # fmt: skip
VALUES = [
    b"", b" ", b",", b";", b"=", b'"', b"*", b"null", b"http://[", b"https://[::1", b"\xff\xfe",
    b"\xc3", "\u00fc\U0001f6d2".encode(), b"a\x00b", b"\x7f\x01", b"-1", b"0", b"1e309", b"\xb2",
    b"9" * 5000, b'W/"', b'"1", "2"', b"Bearer", b"Bearer \xff", b"bytes=9-1,0-0,-1", b"chunked",
    b"100-continue", b"trailers", b"gzip, deflate", b"q=0", b"application/json;q=",
    b"application/json; charset", b"application/json;charset=\xff", b"text/html;q=9e9",
    b"holdfast=", b"holdfast=\xff; __Host-holdfast", b"%ff", b"../../etc/passwd", b"{}",
    b"<script>",
    *(unit * (LONG // len(unit)) for unit in (
        b",", b";", b'"', b" ", b"a", b"\\", b"*/*,", b'"1",', b"a=b;", b"q=0.1;", b"\xff"
    )),
]  # fmt: skip

LINES = b'{"seq":"1","lines":[{"sku":"A","quantity":1}]}'
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ROUTES = [
    ("GET", "/v1/stock/A/main", b"", {}),
    ("POST", "/v1/reservations", LINES, JSON),
    ("PUT", "/v1/stock/A/main", b'{"available":1}', JSON),
    ("POST", "/sign-in", b"key=x", FORM),
    ("POST", "/reserve", b"token=x&sku=A&quantity=1", FORM),
]
MORE_ROUTES = [
    ("GET", "/v1/reservations", b"", {}),
    ("GET", "/v1/audit", b"", {}),
    ("GET", "/v1/sources/us/limits", b"", {}),
    ("PUT", "/v1/sources/us/limits", b'{"open_holds_max":9}', JSON),
    ("HEAD", "/v1/stock", b"", {}),
    ("OPTIONS", "/v1/stock", b"", {}),
    ("PATCH", "/v1/stock", b"", {}),
    ("DELETE", "/v1/stock/B/main", b"", {}),
    ("POST", "/v1/reservations/batch", b'{"reservations":[%b]}' % LINES, JSON),
    ("POST", f"{UNKNOWN}/confirm", b"", {}),
    ("POST", f"{UNKNOWN}/refunds", b'{"seq":"1"}', JSON),
    ("POST", "/v1/stock/A/main/adjustments", b'{"seq":"1","delta":1,"reason":"r"}', JSON),
    ("POST", "/v1/imports?job=1", b"A,main,1\n", {"Content-Type": "text/csv"}),
    ("GET", "/health/ready", b"", {}),
    ("GET", "/metrics", b"", {}),
    ("GET", "/schema", b"", {}),
    ("GET", "/schema/openapi.json", b"", {}),
    ("GET", "/problems/not-found", b"", {}),
    ("GET", "/", b"", {}),
    ("GET", "/sign-in", b"", {}),
    ("GET", "/assets/page.css", b"", {}),
    ("POST", "/refund", b"token=x&reservation=1", FORM),
    ("POST", "/sign-out", b"token=x", FORM),
    ("GET", "/nowhere", b"", {}),
]
MORE_VALUES = [b"http://[", b"\xff\xfe", b"9" * 5000]


@pytest.fixture
async def quiet(service):
    """A service with a row of stock; the test fails if the service logs a failure."""
    await service.stock("A", 1_000_000)
    service.app.worker.proxies = TrustedProxies("127.0.0.1")  # the client of these tests
    with structlog.testing.capture_logs() as logged:
        yield service
    failures = [entry for entry in logged if entry["log_level"] in ("error", "critical")]
    assert failures == []


async def send(client, route, headers, *, key=None):
    """Send a request whose headers replace those of the route, and are sent as they are."""
    method, path, content, own = route
    named = {name.lower() for name in headers}
    others = {name: value for name, value in own.items() if name.lower() not in named}
    everything = [(name.encode(), value if isinstance(value, bytes) else value.encode())
                  for name, value in {**(key or {}), **others, **headers}.items()]  # fmt: skip
    request = client.build_request(method, path, content=content)
    raw = [(name, value) for name, value in request.headers.raw if name.lower().decode() not in
           {name.decode().lower() for name, _ in everything}]  # fmt: skip
    request.headers = type(request.headers)([*raw, *everything])
    return await client.send(request)


def routes_of(value):
    return [*ROUTES, *MORE_ROUTES] if value in MORE_VALUES else ROUTES


@pytest.mark.parametrize("name", NAMES)
async def test_no_header_makes_the_service_fail(quiet, name):
    async with browser(quiet) as page:
        await sign_in(quiet, page)
        for value in VALUES:
            for route in routes_of(value):
                client = quiet.client if route[1].startswith("/v1") else page
                answer = await send(client, route, {name: value})
                assert answer.status_code < 500, (route[:2], name, value[:40], answer.text)


@pytest.mark.parametrize(
    "origin", [b"http://[", b"null", b"", b"\xff", b"http://\xff", b"//", b"http://"]
)
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/reserve", "/refund"])
async def test_a_form_from_an_odd_origin_is_403(quiet, path, origin):
    async with browser(quiet) as page:
        await sign_in(quiet, page)
        for host in ({}, {"Host": b""}):
            answer = await send(page, ("POST", path, b"token=x", FORM), {"Origin": origin, **host})
            assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        (b"https://shop.example", b"shop.example", True),
        (b"http://Shop.example:8000", b"shop.example:8000", True),
        (b"http://[::1]:8000", b"[::1]:8000", True),
        (b"http://shop.example:8000", b"shop.example", False),
        (b"https://evil.example", b"shop.example", False),
        (b"https://shop.example.evil.example", b"shop.example", False),
        (b"null", b"", False),
        (b"null", b"null", False),
        (b"http://", b"", False),
        (b"http://[", b"[", True),
    ],
)
def test_an_origin_is_this_server_s_own_if_its_host_is_equal_to_the_header_host(
    origin, host, is_own
):
    assert is_own_origin(origin, host) == is_own


@pytest.mark.parametrize("odd", [b"\xff", b"\x80a", b"\xc3(", b"a\xed\xa0\x80"])
async def test_a_path_that_is_not_utf_8_is_not_found(quiet, odd):
    """The bytes are sent raw and percent-encoded."""
    for raw in (odd, quote(odd).encode()):
        for path, status in (
            (b"/v1/stock/%b/main", 400), (b"/v1/stock/A/%b", 400), (b"/v1/stock/%b", 400),
            (b"/v1/reservations/%b", 404), (b"/reservations/%b", 303), (b"/problems/%b", 404),
            (b"/assets/%b", 404), (b"/%b", 404), (b"/v1/%b", 404),
        ):  # fmt: skip
            answer = await at(quiet, path % raw)
            assert answer == status, (path, raw)


@pytest.mark.parametrize(
    "raw",
    [b"/v1/stock/%", b"/v1/stock/%zz/%1", b"/v1/stock/a%2", b"/v1/stock/%%%", b"/v1/stock/{sku}",
     b"/v1/stock/\x01\x02/main", b"/%2e%2e/%2e%2e/etc/passwd", b"/v1/stock/" + b"%41" * 60_000,
     b"/v1/reservations/" + b"a" * LONG, b"/problems/" + b"-" * LONG, b"*", b"", b"v1/stock"],
    ids=lambda raw: raw[:16].decode(),
)  # fmt: skip
async def test_no_path_makes_the_service_fail(quiet, raw):
    for method in ("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "\u00fc"):
        assert await at(quiet, raw, method=method) < 500


@pytest.mark.parametrize(
    "raw",
    [b"&", b"&&&&", b"=", b"=x", b"x", b"%", b"%zz", b"%ff=1", b"a=%ff", b"\xff=\xff", b"limit=%00",
     b"limit", b"limit=", b"cursor", b"?", b"#", b"a=1;b=2", b"limit=1&limit=1", b"%6cimit=0",
     b"&".join(b"a%d=1" % n for n in range(10_000)), b"a" * LONG + b"=1", b"sku=" + b"a" * LONG,
     b"limit=" + b"9" * LONG, b"cursor=" + b"A" * LONG, b"created_after=" + b"1" * LONG,
     b"created_after=" + b"%2B" * LONG],
    ids=lambda raw: raw[:20].decode("latin-1"),
)  # fmt: skip
async def test_no_query_makes_the_service_fail(quiet, raw):
    for path in (
        b"/v1/reservations",
        b"/v1/stock",
        b"/v1/stock/A",
        b"/v1/stock/A/main/movements",
        b"/",
    ):
        assert await at(quiet, path, query=raw) < 500
    assert await at(quiet, b"/v1/imports", method="POST", query=raw) == 400


async def at(service, raw_path, *, query=b"", method="GET"):
    """Return the status of a request whose path a client library would correct."""
    key = service.client.headers["Authorization"].encode()
    headers = [(b"host", b"holdfast"), (b"authorization", key), (b"accept", b"*/*")]
    answer = {}

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def write(message):
        answer.update(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": raw_path.decode("latin-1"), "raw_path": raw_path, "root_path": "",
        "query_string": query, "headers": headers, "client": ("127.0.0.1", 1), "server": ("h", 1),
    }  # fmt: skip
    await service.app(scope, receive, write)
    return answer["status"]


# The meaning of headers


@pytest.mark.parametrize(
    "accept",
    [b"", b" ", b",", b", ,", b"*/*", b"application/json", b"text/html,application/json;q=0.1",
     b"text/html, application/*", b"APPLICATION/JSON", b"application/json;q=0,application/json",
     b"application/json,application/json;q=0",
     b"text/html," * 50 + b"application/json", b"text/html;a=b;c=d;q=0.5, application/json"],
)  # fmt: skip
def test_an_accept_header_with_json_anywhere_is_accepted(accept):
    check_acceptable(accept)


@pytest.mark.parametrize(
    "accept",
    [b"text/html", b"application/json;q=0", b"application/json;q=0.000,*/*", b"application/problem",
     b"json", b"\xff"],
)  # fmt: skip
def test_an_accept_header_without_json_is_406(accept):
    with pytest.raises(NotAcceptable):
        check_acceptable(accept)


def test_too_many_media_ranges_are_400():
    with pytest.raises(InvalidRequest):
        check_acceptable(b"text/html," * 100 + b"application/json")


@pytest.mark.parametrize("order", [1, -1])
async def test_several_lines_of_accept_are_one_list(service, order):
    lines = [(b"Accept", b"text/html"), (b"Accept", b"application/json")][::order]
    key = (b"Authorization", service.client.headers["Authorization"].encode())
    answer = await service.client.get("/v1/stock", headers=[key, *lines])
    assert answer.status_code == 200
    refused = await service.client.get("/v1/stock", headers=[key, lines[0], (b"Accept", b"a/b")])
    assert refused.status_code == (406 if lines[0][1] == b"text/html" else 200)


async def test_an_empty_accept_counts_as_absent(service):
    for accept in ("", " ", ","):
        answer = await service.client.get("/v1/stock", headers={"Accept": accept})
        assert answer.status_code == 200


async def test_the_key_is_checked_before_accept_and_everything_else(service):
    wrong = {"Authorization": "Bearer x", "Accept": "text/html", "Content-Type": "text/plain",
             "Idempotency-Key": '"', "If-Match": "x"}  # fmt: skip
    with_key = [each for each in [*ROUTES, *MORE_ROUTES] if each[1].startswith("/v1/")]
    for method, path, content, _ in with_key:
        if method in ("OPTIONS", "PATCH"):  # no operation has these methods
            continue
        answer = await service.client.request(method, path, content=content, headers=wrong)
        assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize("sent", [b'"27"', b'W/"27"', b' "27" ', b'"27",', b', W/"27"'])
def test_a_precondition_names_one_version_with_a_strong_or_weak_etag(sent):
    assert version("If-Match", sent) == 27


@pytest.mark.parametrize(
    "sent", [b"", b"*", b"27", b'"27', b'"027"', b'"-1"', b'"0"', b'w/"27"', b'W/27', b'"27", "28"',
             b'"27" "27"', b'"' + b"9" * 20 + b'"', b'"\xb2"', b'"27"\x00'],
)  # fmt: skip
def test_a_precondition_that_names_no_version_or_several_is_400(sent):
    with pytest.raises(InvalidRequest) as caught:
        version("If-Match", sent)
    assert caught.value.fields["errors"][0]["path"] == "If-Match"


async def test_the_weak_etag_of_a_compressing_proxy_is_accepted(service):
    await service.stock("A", 1)
    tag = (await service.client.get("/v1/stock/A/main")).headers["ETag"]
    body, weak = {"available": 2}, {"If-Match": f"W/{tag}"}
    answers = [await service.client.put("/v1/stock/A/main", json=body, headers=weak) for _ in "12"]
    assert [answer.status_code for answer in answers] == [200, 412]
    gone = await service.client.delete("/v1/stock/A/main", headers={"If-Match": 'W/"2"'})
    assert gone.status_code == 204
    both = [(b"If-Match", b'"1"'), (b"If-Match", b'"2"')]
    key = (b"Authorization", service.client.headers["Authorization"].encode())
    refused = await service.client.put("/v1/stock/A/main", json=body, headers=[key, *both])
    assert refused.json()["errors"][0]["path"] == "If-Match"


def test_an_etag_is_found_in_a_list_of_any_length():
    assert matches(b'"1", W/"27"', b'"27"')
    assert matches(b" * ", b'"27"')
    assert matches(b'"1",' * 100_000 + b'"27"', b'"27"')
    assert not matches(b'"1", "127", "2"', b'"27"')
    assert not matches(b"27", b'"27"')


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (b"holdfast=abc", b"abc"), (b"a=b; holdfast=a-_1", b"a-_1"), (b"a=b;holdfast=x;c=d", b"x"),
        (b"xholdfast=a", None), (b"holdfast=", None), (b"holdfast", None), (b'holdfast="a"', None),
        (b"holdfast=a\xff", None), (b"HOLDFAST=a", None), (b"", None), (b"a=holdfast=b", None),
    ],
)  # fmt: skip
def test_only_a_cookie_that_the_server_could_have_set_is_read(sent, value):
    assert cookie(sent, b"holdfast") == value


@pytest.mark.parametrize(
    ("sent", "is_right"),
    [
        (b"application/json", True), (b"Application/JSON; Charset=UTF-8", True),
        (b'application/json;charset="utf-8"', True), (b"application/json;x=y", True),
        (b"application/json;charset=latin-1", False), (b"text/plain", False), (b"", False),
        (b"application/json;" + b" " * 300, False), (b"application/json/json", False),
    ],
)  # fmt: skip
def test_a_media_type_is_accepted_in_any_spelling(sent, is_right):
    if is_right:
        check_media_type(sent, "application/json")
    else:
        with pytest.raises(UnsupportedMediaType):
            check_media_type(sent, "application/json")


@pytest.mark.parametrize("sent", [b"x" * 128, "é".encode() * 128, b'"' + b'\\"' * 128 + b'"'])
def test_an_idempotency_key_of_128_characters_is_accepted(sent):
    assert len(idempotency_key(sent)) == 128


@pytest.mark.parametrize(
    "sent", [b"x" * 129, b'"' + b"x" * 5_000_000, b'"' * 5_000_000, b"\xff" * 9]
)
def test_an_idempotency_key_that_is_longer_or_malformed_is_400(sent):
    with pytest.raises(InvalidRequest) as caught:
        idempotency_key(sent)
    (error,) = caught.value.fields["errors"]
    assert error["path"] == "Idempotency-Key"
    assert len(sent) == 9 or error["message"] == "has more than 128 characters"


def test_a_weight_with_any_number_of_digits_is_read():
    assert quality(b"text/html;q=0." + b"0" * 100_000 + b"1", "text/html") < 1e-300
