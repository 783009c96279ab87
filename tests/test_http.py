"""HTTP: HEAD, OPTIONS, header lines that are sent twice, compression, headers of answers."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.http import openapi
from service.http.compression import accepts_gzip
from tests.conftest import Service

OPERATIONS = (
    "/health/live",
    "/health/ready",
    "/metrics",
    "/schema",
    "/schema/openapi.json",
    "/problems/not-found",
    "/v1/access-log",
    "/v1/audit",
    "/v1/keys",
    "/v1/keys/{key_id}",
    "/v1/sources/us/limits",
    "/v1/reservations",
    "/v1/reservations/{id}",
    "/v1/reservations/{id}/movements",
    "/v1/reservations/{id}/refunds",
    "/v1/reservations/{id}/refunds/{refund_id}",
    "/v1/stock",
    "/v1/stock/A",
    "/v1/stock/A/main",
    "/v1/stock/A/main/movements",
)


@pytest.fixture
async def addresses(service: Service) -> dict[str, str]:
    """Store a reservation and a refund; return the ids that the addresses contain."""
    await service.stock("A", 100)
    id_ = (await service.reserve("1", ("A", 2))).json()["id"]
    answer = await service.client.post(f"/v1/reservations/{id_}/refunds", json={"seq": "1"})
    keys = (await service.client.get("/v1/keys")).json()["items"]
    return {"id": id_, "refund_id": answer.json()["id"], "key_id": keys[0]["id"]}


def documented(service: Service, method: str) -> list[str]:
    paths = openapi.document(service.app)["paths"]
    return [path for path, operations in paths.items() if method in operations]


async def test_every_address_that_answers_get_answers_head_with_the_same_headers(
    service, addresses
):
    for path in OPERATIONS:
        url = path.format(**addresses)
        got, asked = await service.client.get(url), await service.client.head(url)
        assert (asked.status_code, asked.content) == (got.status_code, b""), url
        assert got.status_code == 200
        assert set(asked.headers) == set(got.headers)
        if path != "/metrics":
            assert asked.headers["content-length"] == got.headers["content-length"]
    patterns = [_pattern(path) for path in OPERATIONS]
    forgotten = set(documented(service, "get")) - {
        "/problems/{code}" if path.startswith("/problems") else path for path in patterns
    }
    assert not forgotten


def _pattern(path: str) -> str:
    """The address with the names of its parameters, as in the document."""
    for value, name in (("A", "sku"), ("main", "location"), ("us", "source")):
        path = re.sub(rf"/{value}(?=/|$)", f"/{{{name}}}", path)
    return path.replace("{key_id}", "{id}")


async def test_head_needs_a_key_and_answers_404(service):
    assert (await service.client.head("/v1/stock/none/main")).status_code == 404
    del service.client.headers["Authorization"]
    refused = await service.client.head("/v1/stock")
    assert (refused.status_code, refused.content) == (401, b"")
    assert refused.headers["www-authenticate"] == "Bearer"


async def test_options_and_405_list_all_methods_of_an_address(service):
    paths = openapi.document(service.app)["paths"]
    for path, operations in paths.items():
        url = path.replace("{", "").replace("}", "")
        methods = {method.upper() for method in operations} | {"OPTIONS"}
        methods |= {"HEAD"} if "GET" in methods else set()
        told = await service.client.options(url)
        refused = await service.client.request("PATCH", url)
        assert (told.status_code, refused.status_code) == (204, 405), url
        assert told.headers["allow"] == refused.headers["allow"] == ", ".join(sorted(methods))


async def test_options_of_an_unknown_address_is_404(service):
    assert (await service.client.options("/v1/nothing")).status_code == 404


@pytest.mark.parametrize("name", ["Host", "Authorization", "Idempotency-Key"])
@pytest.mark.parametrize("path", ["/v1/stock", "/health/live", "/"])
async def test_a_header_that_may_have_one_line_is_refused_with_two(service, name, path):
    headers = [(name, "one"), (name, "two")]
    answer = await service.client.get(path, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"path": name, "message": "is given twice"}]


async def test_a_request_without_host_is_refused(service):
    status, _, body = await ask(service, [(b"accept", b"*/*")])
    assert status == 400
    assert b'"path":"Host"' in body


async def ask(service: Service, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict, bytes]:
    """Send a request without a client library, which would add headers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health/live",
        "raw_path": b"/health/live",
        "query_string": b"",
        "headers": headers,
    }
    await service.app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_the_error_about_an_address_that_ends_with_a_slash_names_the_slash(service):
    answer = await service.client.get("/v1/stock/")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "slash" in answer.json()["detail"]


@pytest.fixture
async def long_list(service: Service) -> AsyncIterator[str]:
    for number in range(12):
        await service.stock(f"A{number}", number)
    return "/v1/stock"


async def test_long_answers_are_compressed_for_clients_that_accept_it(service, long_list):
    plain = await service.client.get(long_list, headers={"Accept-Encoding": "identity"})
    assert len(plain.content) > 1024
    assert "content-encoding" not in plain.headers
    packed = await service.client.get(long_list, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content)
    assert packed.json() == plain.json()
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
    short = await service.client.get("/v1/stock?limit=1", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in short.headers


async def test_a_very_long_answer_is_compressed_too(service):
    lines = [{"sku": f"{'x' * 100}{number}", "quantity": 1} for number in range(1000)]
    answer = await service.client.post("/v1/reservations", json={"seq": "1", "lines": lines})
    assert (answer.status_code, answer.headers["content-encoding"]) == (404, "gzip")
    assert len(answer.json()["unknown"]) == 1000
    assert len(answer.content) > 100_000


async def test_pages_with_a_token_are_never_compressed(service):
    key = service.client.headers["Authorization"].removeprefix("Bearer ")
    await service.client.post("/sign-in", data={"key": key})
    answer = await service.client.get("/", headers={"Accept-Encoding": "gzip"})
    assert len(answer.content) > 1024
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        ([], False),
        ([b""], False),
        ([b"gzip"], True),
        ([b"GZIP"], True),
        ([b"deflate, gzip;q=1.0, *;q=0.5"], True),
        ([b"*"], True),
        ([b"gzip;q=0"], False),
        ([b"gzip;q=0.000, *"], False),
        ([b"*;q=0"], False),
        ([b"identity", b"gzip"], True),
        ([b"," * 30_000], False),
        ([b"\xff\xfe"], False),
    ],
)
def test_all_lines_of_accept_encoding_are_read(sent, accepted):
    headers = [(b"accept-encoding", value) for value in sent]
    assert accepts_gzip(headers) is accepted


async def test_every_answer_has_headers_against_sniffing_and_caching(service, addresses):
    for path in OPERATIONS:
        answer = await service.client.get(path.format(**addresses))
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path.startswith("/v1"):
            assert answer.headers["cache-control"] == "private, no-cache"
    changed = await service.reserve("2", ("A", 1))
    refused = await service.reserve("3", ("none", 1))
    for answer in (changed, refused):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/nothing", "/assets/page.css", "/sign-in"):
        answer = await service.client.get(path, headers={"Accept": "text/html"})
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_openapi_document_is_made_only_once(service, monkeypatch):
    first = await service.client.get("/schema/openapi.json")
    monkeypatch.setattr(openapi, "document", None)
    assert (await service.client.get("/schema/openapi.json")).content == first.content
    assert (await service.client.get("/schema")).status_code == 200
    packed = await service.client.get("/schema/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
