"""Orders that are sent twice to a real server have one effect; the checks find every error."""

import asyncio
import json
import re
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from service.cli import cli
from service.replay import client as client_module
from service.replay.checks import (
    check_audit,
    check_first_pass,
    check_second_pass,
    check_stock,
    expected_stock,
)
from service.replay.client import ApiResponse, Client, ClientError, connected
from service.replay.orders import plan_replay
from service.replay.orders_file import read_orders
from service.replay.passes import Pass
from tests.conftest import REAL_ORDERS, assert_books_balance, fresh_database
from tests.server import Server, running_server
from tests.test_orders import SMALL, needs_real_orders


@pytest.fixture(scope="module")
async def server(postgres_url):
    """A server with two workers that all tests here share; each test uses its own prefix."""
    async with fresh_database(postgres_url) as url:
        with running_server(url, workers=2) as started:
            yield started
        await assert_books_balance(url)


@dataclass
class Ended:
    code: int
    out: str
    err: str

    def row(self, name: str) -> list[int]:
        """Return the figures of both passes in a row of the report."""
        found = re.search(rf"^{name} +([\d,]+) +([\d,]+)$", self.out, re.MULTILINE)
        assert found is not None, self.out
        return [int(figure.replace(",", "")) for figure in found.groups()]


async def holdfast(server: Server | None, *arguments: str | Path, key: str | None = None) -> Ended:
    """Run the command line in a thread, because it has its own event loop."""
    if server is not None:
        arguments = (*arguments, "--url", server.url)
        key = key or server.key
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, [*map(str, arguments)], env={"HOLDFAST_KEY": key}
    )
    return Ended(result.exit_code, result.stdout, " ".join(result.stderr.split()))


async def available(server: Server, location: str) -> dict[str, int]:
    async with connected(server.url, server.key) as client:
        return {sku: row[0] for sku, row in (await client.stock(location)).items()}


async def test_every_request_is_executed_once_and_the_second_pass_gets_only_replays(server):
    ended = await holdfast(server, "replay", SMALL, "--prefix", "once")
    assert ended.code == 0, ended.err
    assert ended.row("orders") == [4, 4]
    assert ended.row("refunds") == [5, 5]
    assert ended.row("write-offs") == [1, 1]
    assert ended.row("refusals") == [0, 0]
    assert ended.row("replays") == [0, 10]
    assert "books balanced: yes" in ended.out
    assert "7 of 11 cancellation lines match" in ended.out
    assert "1 not sent: no customer named" in ended.out
    assert await available(server, "once") == {
        "MUG": 2 + 1 + 1,
        "15056N": 0,
        "15056n": 4,
        "TRAY": 10,
        "POST": 0,
        "BANK CHARGES": 0,
    }


async def test_a_second_run_with_the_same_prefix_gets_only_replays(server):
    await holdfast(server, "replay", SMALL, "--prefix", "twice")
    before = await available(server, "twice")
    ended = await holdfast(server, "replay", SMALL, "--prefix", "twice")
    assert ended.code == 0, ended.err
    assert ended.row("replays") == [10, 10]
    assert await available(server, "twice") == before


async def test_orders_beyond_scarce_stock_are_refused_and_stay_refused(server):
    ended = await holdfast(server, "replay", SMALL, "--prefix", "scarce", "--stock-share", "0")
    assert ended.code == 0, ended.err
    assert ended.row("orders") == [0, 0]
    assert ended.row("refusals") == [4, 4]
    assert ended.row("refunds") == [0, 0]
    assert ended.row("replays") == [0, 5]
    assert set((await available(server, "scarce")).values()) == {0}


async def test_a_prefix_can_not_be_used_for_other_orders(server):
    await holdfast(server, "replay", SMALL, "--prefix", "taken")
    ended = await holdfast(server, "replay", SMALL, "--prefix", "taken", "--stock-share", "0.5")
    assert ended.code == 1
    assert "the prefix 'taken' was used before" in ended.err
    assert "Choose another with --prefix" in ended.err


async def test_existing_stock_at_the_location_is_not_changed(server, tmp_path):
    stock = tmp_path / "stock.csv"
    stock.write_text("sku,location,available\nMUG,shared,1\n")
    await holdfast(server, "import", stock, "--job", "shared stock")
    ended = await holdfast(server, "replay", SMALL, "--prefix", "shared")
    assert ended.code == 1
    assert "1 of 6 SKUs were already at the location 'shared'" in ended.err
    assert (await available(server, "shared"))["MUG"] == 1


async def test_stock_that_differs_from_the_answers_is_a_failure(server):
    await holdfast(server, "replay", SMALL, "--prefix", "leaky")
    async with connected(server.url, server.key) as client:
        body = json.dumps({"seq": "leak", "delta": -1, "reason": "stolen"}).encode()
        answer = await client.send("POST", "/v1/stock/TRAY/leaky/adjustments", body)
        assert answer.status == 201
    ended = await holdfast(server, "replay", SMALL, "--prefix", "leaky")
    assert ended.code == 1
    assert "TRAY has 9 available, but 10 should be left" in ended.err
    assert "report this bug" in ended.err


async def test_a_file_of_matches_that_disagrees_is_a_failure(server, tmp_path):
    matches = tmp_path / "matches.csv"
    matches.write_text(
        "cancel_invoice,cancel_line,purchase_invoice,purchase_line,returned\nC100004,1,100003,2,4\n"
    )
    ended = await holdfast(server, "replay", SMALL, "--prefix", "other", "--matches", matches)
    assert ended.code == 1
    assert "matches.csv says 4 of invoice 100003 line 2" in ended.err
    assert "holdfast found 4 of invoice 100002" in ended.err


async def test_the_errors_about_an_unreachable_service_a_wrong_key_and_a_bad_file_name_the_remedy(
    server, tmp_path
):
    ended = await holdfast(None, "replay", SMALL, "--url", "http://127.0.0.1:9", key="hf_any")
    assert ended.code == 1
    assert "Start the service with `holdfast serve`" in ended.err
    ended = await holdfast(server, "replay", SMALL, key="hf_unknown")
    assert ended.code == 1
    assert "the key is not known" in ended.err
    ended = await holdfast(None, "replay", SMALL)
    assert ended.code == 2
    assert "--key" in ended.err
    bad = tmp_path / "orders.csv"
    bad.write_text(SMALL.read_text().replace("POST,1", "POST,one"))
    ended = await holdfast(server, "replay", bad)
    assert ended.code == 1
    assert "orders.csv line 8: quantity 'one' is not a whole number" in ended.err


async def test_a_repeated_import_changes_nothing(server, tmp_path):
    stock = tmp_path / "stock.csv"
    stock.write_text("sku,location,available,name\nA,depot,5,A thing\nB,depot,7,\n")
    first = await holdfast(server, "import", stock)
    again = await holdfast(server, "import", stock)
    other = await holdfast(server, "import", stock, "--job", "same again")
    assert first.out == "2 created, 0 skipped\n"
    assert again.out == "2 created, 0 skipped (this job was done before; nothing changed now)\n"
    assert (other.out, other.err) == ("0 created, 2 skipped\n", "")
    assert await available(server, "depot") == {"A": 5, "B": 7}


async def test_an_import_names_every_bad_line_and_writes_nothing(server, tmp_path):
    stock = tmp_path / "bad.csv"
    stock.write_text("sku,location,available\nA,dump,5\nB,dump,many\nC,dump\n")
    ended = await holdfast(server, "import", stock)
    assert ended.code == 1
    assert "bad.csv line 3: available is not a whole number" in ended.err
    assert "line 4: the number of fields is 2; expected sku,location,available" in ended.err
    assert await available(server, "dump") == {}


async def test_a_job_name_can_not_be_used_for_another_file(server, tmp_path):
    stock = tmp_path / "changing.csv"
    stock.write_text("A,attic,5\n")
    await holdfast(server, "import", stock)
    stock.write_text("A,attic,6\n")
    ended = await holdfast(server, "import", stock)
    assert ended.code == 1
    assert "the job 'changing.csv' was done before with another file" in ended.err


@needs_real_orders
async def test_the_real_orders_pass_all_checks_on_two_workers_with_too_little_stock(server):
    ended = await holdfast(
        server,
        "replay",
        REAL_ORDERS / "orders.csv",
        *("--prefix", "real", "--stock-share", "0.9"),
        *("--matches", REAL_ORDERS / "matches.csv"),
    )
    assert ended.code == 0, ended.err
    sold, refused = ended.row("orders")[0], ended.row("refusals")[0]
    assert sold + refused == 575
    assert refused > 0
    assert ended.row("replays") == [0, ended.row("requests")[1]]


def answering(*responses: httpx.Response | Exception) -> tuple[Client, list[bytes]]:
    """Return a client that gets these answers, and the list of the bodies that it sends."""
    waiting, sent = iter(responses), []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        response = next(waiting)
        if isinstance(response, Exception):
            raise response
        return response

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://holdfast")
    return Client("http://holdfast", [http]), sent


LATER = httpx.Response(503, json={"code": "overloaded"}, headers={"Retry-After": "0"})
LIMITED = httpx.Response(429, json={"code": "rate_limited"}, headers={"Retry-After": "0"})
DONE = httpx.Response(200, json={"id": "7"}, headers={"Idempotency-Replayed": "true"})


async def test_a_request_is_retried_with_the_same_bytes_until_it_gets_a_final_answer():
    client, sent = answering(LATER, LIMITED, httpx.ReadError("cut"), DONE)
    answer = await client.send("POST", "/", b"same")
    assert (answer.status, answer.replayed, answer.attempts) == (200, True, 4)
    assert sent == [b"same"] * 4


async def test_a_request_without_a_final_answer_fails_after_the_last_attempt(monkeypatch):
    monkeypatch.setattr(client_module, "ATTEMPTS_MAX", 2)
    client, sent = answering(LATER, LATER)
    with pytest.raises(
        ClientError, match=r"no final answer in 2 attempts .*run the same command again"
    ):
        await client.send("POST", "/", b"")
    assert len(sent) == 2


async def test_the_error_about_a_key_without_permission_names_the_command_that_makes_a_key():
    client, _ = answering(httpx.Response(403, json={"code": "forbidden", "detail": "No."}))
    with pytest.raises(ClientError, match="holdfast key create --source NAME --scope reserve"):
        await client.send("POST", "/", b"")


async def test_an_answer_of_another_server_is_recognized():
    client, _ = answering(httpx.Response(502, text="<h1>Bad Gateway</h1>"))
    with pytest.raises(ClientError, match="is not Holdfast"):
        await client.send("POST", "/", b"")


@pytest.fixture
def plan():
    return plan_replay(read_orders(SMALL), "p")


@pytest.fixture
def first(plan):
    """A pass in which every request was carried out."""
    requests = [("write-off", one.seq) for one in plan.write_offs]
    for order in plan.orders:
        requests.append(("order", order.seq))
        requests += [("refund", one.seq) for one in order.returns]
    answers = {
        request: ApiResponse(201, {"id": str(number)}, False, 0.01, 1)
        for number, request in enumerate(requests)
    }
    return Pass(Client("", []), lambda steps: None, answers)


@pytest.fixture
def second(first):
    """The second pass: every answer is a replay."""
    answers = {
        request: replace(answer, status=200, replayed=True)
        for request, answer in first.answers.items()
    }
    return Pass(first.client, first.advance, answers)


@pytest.fixture
def rows(plan, first):
    """The stock after the first pass."""
    return {sku: (left, 0, 2) for sku, left in expected_stock(plan, first).items()}


ORDER = ("order", "p-100002")


def test_a_correct_replay_has_no_failures(plan, first, second, rows):
    assert check_first_pass(plan, first) == []
    assert check_second_pass(first, second) == []
    assert check_stock(plan, first, rows, rows) == []
    assert check_audit({"balanced": True}) == []


def test_a_refusal_with_enough_stock_is_a_failure(plan, first):
    first.answers[ORDER] = ApiResponse(409, {"code": "insufficient_stock"}, False, 0.01, 1)
    (failure,) = check_first_pass(plan, first)
    assert failure.startswith("1 requests were refused without a reason")


def test_a_second_answer_that_is_not_a_replay_is_a_failure(first, second):
    second.answers[ORDER] = replace(second.answers[ORDER], status=201, replayed=False)
    assert "order p-100002 got 201" in check_second_pass(first, second)[0]


def test_a_replay_of_another_reservation_is_a_failure(first, second):
    second.answers[ORDER] = replace(second.answers[ORDER], body={"id": "another"})
    assert "order p-100002 got 200" in check_second_pass(first, second)[0]


def test_a_refusal_that_became_a_sale_is_a_failure(first, second):
    refusal = {"code": "insufficient_stock", "reservation_id": "1"}
    first.answers[ORDER] = ApiResponse(409, refusal, False, 0.01, 1)
    assert "order p-100002 got 200" in check_second_pass(first, second)[0]


def test_a_request_that_only_one_pass_sent_is_a_failure(first, second):
    del second.answers[ORDER]
    assert "the passes did not send the same requests" in check_second_pass(first, second)[0]


def test_a_missing_unit_or_a_raised_version_is_a_failure(plan, first, rows):
    lost, moved = deepcopy(rows), deepcopy(rows)
    lost["TRAY"] = (9, 0, 2)
    moved["TRAY"] = (10, 0, 4)
    assert "TRAY has 9 available, but 10 should be left" in check_stock(plan, first, lost, lost)[0]
    assert "TRAY changed from (10, 0, 2) to (10, 0, 4)" in check_stock(plan, first, rows, moved)[0]


def test_books_that_drift_are_a_failure():
    (failure,) = check_audit({"balanced": False, "drift": [{"rule": "held", "sku": "A"}]})
    assert "holdfast audit" in failure
