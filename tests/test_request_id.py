"""Every answer has the id of its request, and so have its problem document and its log line."""

import multiprocessing
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import structlog

from service.domain.errors import InternalError
from service.http.failures import note_failure
from service.http.request_id import new_request_id, request_id_of
from service.http.routes import operations as routes
from tests.conftest import assert_books_balance, fresh_database, running_service
from tests.raw import dial, exchange, head_of, post
from tests.server import Server, running_server
from tests.test_page import browser

FORM = re.compile(r"[A-Za-z0-9._~:/@+=-]{1,128}")
USABLE = [
    b"1", b"a" * 128, b"b7ad6b7169203331", b"8b1c7f9e-2f64-5a52-9d3b-6a4f6f1e7c11",
    b"AZaz09._~:/@+=-", b"urn:uuid:1/2@x+y=z", b"../../etc/passwd", b"-", b"=",
]  # fmt: skip
UNUSABLE = [
    b"", b" ", b"a" * 129, b"a b", b"a,b", b"a;b", b'"a"', b"a\tb", b"\xff", "\u00fc".encode(),
    b"<script>", b"a\\b", b"{}", b"%0d%0aSet-Cookie:a", b"a?b", b"a#b", b"a!b", b"a'b", b"a&b",
    b"$(id)", b"\x7f", b"x" * 20_000,
]  # fmt: skip


@pytest.fixture(scope="module")
async def server(postgres_url: str) -> AsyncIterator[Server]:
    async with fresh_database(postgres_url) as url:
        with running_server(url, workers=2) as started:
            yield started
        await assert_books_balance(url)


@pytest.mark.parametrize("sent", USABLE, ids=repr)
def test_a_request_keeps_an_id_of_the_known_form(sent):
    assert request_id_of([(b"x-request-id", sent)]) == sent


@pytest.mark.parametrize(
    "sent", [*UNUSABLE, b"a\n", b"a\r\nb: c"], ids=lambda sent: repr(sent)[:20]
)
def test_an_id_of_another_form_is_replaced(sent):
    made = request_id_of([(b"x-request-id", sent)])
    assert FORM.fullmatch(made.decode())
    assert made not in (sent, request_id_of([(b"x-request-id", sent)]))


def test_two_lines_are_no_id():
    assert request_id_of([(b"x-request-id", b"a"), (b"x-request-id", b"a")]) != b"a"


def test_new_ids_are_of_one_length_so_that_they_change_no_content_length():
    assert len({len(new_request_id()) for _ in range(300)}) == 1


def test_a_process_and_its_forks_make_different_ids():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        theirs = pool.map(_ids, [50, 50], chunksize=1)
    assert len({*_ids(50), *theirs[0], *theirs[1]}) == 150


def _ids(number: int) -> list[bytes]:
    return [new_request_id() for _ in range(number)]


ANSWERS = {
    "200": ("GET", "/health/live", {}),
    "401": ("GET", "/v1/stock", {"Authorization": ""}),
    "404": ("GET", "/v1/nothing", {}),
    "404 of a problem": ("GET", "/problems/nothing", {}),
    "405": ("PATCH", "/v1/stock", {}),
    "OPTIONS": ("OPTIONS", "/v1/stock", {}),
    "HEAD": ("HEAD", "/v1/stock", {}),
    "400 for the head": ("GET", "/health/live", {"Host": None}),
    "metrics": ("GET", "/metrics", {}),
    "schema": ("GET", "/schema", {}),
    "document": ("GET", "/schema/openapi.json", {}),
    "problem": ("GET", "/problems/not-found", {}),
    "page": ("GET", "/sign-in", {}),
    "redirect": ("GET", "/", {"Accept": "text/html"}),
    "page of a 404": ("GET", "/nothing", {"Accept": "text/html"}),
    "asset": ("GET", "/assets/page.css", {}),
    "no body": ("DELETE", "/v1/stock/X/main", {}),
}


@pytest.mark.parametrize(("method", "path", "headers"), ANSWERS.values(), ids=ANSWERS)
async def test_every_answer_has_the_id_once(server, method, path, headers):
    named = {"Authorization": f"Bearer {server.key}", "Host": "h", **headers}
    for sent, expected in (("my-id.1", "my-id.1"), ("not an id", None), (None, None)):
        lines = [f"{name}: {value}" for name, value in named.items() if value is not None]
        lines += [] if sent is None else [f"X-Request-Id: {sent}"]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""])
        async with dial(server) as wire:
            await wire.send(head.encode())
            answer = await wire.answer(to=method)
        assert answer is not None
        id_ = answer.headers["x-request-id"]
        assert answer.head.lower().count(b"x-request-id:") == 1
        assert id_ == expected if expected else FORM.fullmatch(id_)
        if answer.headers.get("content-type") == "application/problem+json" and answer.body:
            assert answer.json()["request_id"] == id_


async def test_a_304_has_the_id(service):
    await service.stock("A", 1)
    headers = {"If-None-Match": '"1"', "X-Request-Id": "mine"}
    answer = await service.client.get("/v1/stock/A/main", headers=headers)
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (304, "mine")


BROKEN = {
    "not HTTP": (b"NONSENSE\r\n\r\n", 400),
    "a long head": (b"GET / HTTP/1.1\r\nX-Request-Id: mine\r\nA: " + b"x" * 40_000, 431),
    "a long URL": (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nX-Request-Id: mine\r\n\r\n", 414),
    "a CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n", 405),
    "an unusable id": (b"CONNECT a:1 HTTP/1.1\r\nX-Request-Id: m\xffne\r\n\r\n", 405),
    "a NUL": (b"GET / HTTP/1.1\r\nX-Request-Id: mine\r\nA: \0\r\n\r\n", 400),
}


@pytest.mark.parametrize(("sent", "status"), BROKEN.values(), ids=BROKEN)
async def test_a_refusal_of_the_protocol_has_the_id(server, sent, status):
    answer = await exchange(server, sent)
    assert answer.status == status
    id_ = answer.headers["x-request-id"]
    assert answer.json()["request_id"] == id_
    assert FORM.fullmatch(id_)
    if status != 414 and b"Id: mine" in sent:
        assert id_ == "mine"


async def test_a_body_that_breaks_off_is_refused_with_the_id_of_its_head(server):
    head = head_of(server, "POST", "/v1/reservations", "X-Request-Id: mine", length=40)
    answer = await exchange(server, head, b"{", finishes=True)
    assert (answer.status, answer.json()["request_id"]) == (400, "mine")


async def test_a_pipelined_request_has_its_own_id(server):
    async with dial(server) as wire:
        heads = [head_of(server, "GET", "/v1/stock", f"X-Request-Id: r{n}") for n in range(5)]
        await wire.send(b"".join(heads) + b"NONSENSE\r\n\r\n")
        answers = await wire.answers()
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert ids[:5] == ["r0", "r1", "r2", "r3", "r4"]
        assert len(set(ids)) == 6


@pytest.mark.parametrize("sent", UNUSABLE, ids=lambda sent: repr(sent)[:20])
async def test_an_unusable_id_is_never_sent_back(server, sent):
    head = b"GET /v1/nothing HTTP/1.1\r\nHost: h\r\nX-Request-Id: " + sent + b"\r\n\r\n"
    answer = await exchange(server, head)
    assert answer.status in (400, 401, 404)
    assert FORM.fullmatch(answer.headers["x-request-id"])
    if len(sent.strip()) > 1:
        assert sent.strip() not in answer.head + answer.body


async def test_the_problems_of_a_batch_have_the_id_of_the_request(service):
    body = {"reservations": [{"seq": "1", "lines": [{"sku": "none", "quantity": 1}]}, {}]}
    answer = await service.client.post(
        "/v1/reservations/batch", json=body, headers={"X-Request-Id": "mine"}
    )
    problems = [result["problem"] for result in answer.json()["results"]]
    assert [each["request_id"] for each in problems] == ["mine", "mine"]


async def test_the_log_line_of_a_refusal_has_the_id(service):
    with structlog.testing.capture_logs() as lines:
        headers = {"Authorization": "Bearer x", "X-Request-Id": "mine"}
        await service.client.get("/v1/stock", headers=headers)
    assert [line["request_id"] for line in lines if line["event"] == "refused"] == ["mine"]


async def test_the_log_line_of_a_failure_has_the_id(service, monkeypatch):
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(routes, "generate_latest", fail)
    monkeypatch.setattr(service.app.worker.database, "ping", fail)
    for path in ("/metrics", "/health/ready"):
        with structlog.testing.capture_logs() as lines:
            answer = await service.client.get(path, headers={"X-Request-Id": "mine"})
        assert (answer.status_code, answer.json()["request_id"]) == (500, "mine")
        logged = [line["request_id"] for line in lines if line["event"] == "request_failed"]
        assert logged == ["mine"]


def test_the_log_line_of_a_failure_has_no_control_character_of_the_client():
    with structlog.testing.capture_logs() as lines:
        call = SimpleNamespace(path="/v1/\x9b31m\x1b[2J\nü", request_id="1")
        note_failure(call, InternalError("The service failed."), RuntimeError("broken"))
    logged = [line["path"] for line in lines if line["event"] == "request_failed"]
    assert logged[-1] == r"/v1/\x9b31m\x1b[2J\n\xfc"


async def test_a_command_that_fails_is_logged_with_the_id_of_its_request(service, monkeypatch):
    """The engine runs the command in another task, alone or as an entry of a batch."""

    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr("service.engine.ledger.plan", fail)
    entry = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}
    for path, body, status in (
        ("/v1/reservations", entry, 500),
        ("/v1/reservations/batch", {"reservations": [entry, {**entry, "seq": "2"}]}, 200),
    ):
        with structlog.testing.capture_logs() as lines:
            answer = await service.client.post(path, json=body, headers={"X-Request-Id": "mine"})
        assert answer.status_code == status
        logged = [line for line in lines if line["event"] == "request_failed"]
        assert logged
        assert {line["request_id"] for line in logged} == {"mine"}


async def test_a_failure_outside_the_routes_is_a_problem_with_the_id(service, monkeypatch):
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("litestar.Litestar.__call__", fail)
    with structlog.testing.capture_logs() as lines:
        answer = await service.client.get("/v1/stock", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "mine"
    assert [line["request_id"] for line in lines] == ["mine"]


async def test_the_page_of_an_error_shows_the_id(database_url):
    async with running_service(database_url) as service, browser(service) as page:
        page.headers["X-Request-Id"] = "mine"
        refused = await page.post("/sign-in", data={"key": "x"}, headers={"Origin": "null"})
        assert refused.status_code == 403
        assert "<code>mine</code>" in refused.text


async def test_a_replayed_request_has_an_id_of_its_own(server):
    request = b"".join(post(server, "/v1/stock/none/main/adjustments", {"seq": "1"}))
    ids = {(await exchange(server, request)).headers["x-request-id"] for _ in range(4)}
    assert len(ids) == 4
