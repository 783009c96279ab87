"""Other tools read the OpenAPI document: linters, and generators of clients.

The versions of the npm tools are pinned in tests/openapi/package-lock.json.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.http.app import create_app
from service.http.openapi import document
from service.settings import Settings
from tests.conftest import fresh_database
from tests.openapi import npm
from tests.server import running_server

ROOT = Path(__file__).parent.parent
RESERVATION = re.compile(r"\$API/reservations -H[^']*-d '(\{.*?\})'", re.DOTALL)
COMPILED = """\
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8000" });
const body: components["schemas"]["ReserveBody"] = BODY;

export async function reserve(): Promise<components["schemas"]["Reservation"]> {
  const { data, error } = await client.POST("/v1/reservations", { body });
  if (data) return data;
  if (error.code === "insufficient_stock") throw new Error(`${error.shortages[0]?.available} left`);
  if (error.code === "idempotency_mismatch") throw new Error(error.field);
  const again: boolean = error.retryable;
  throw new Error(again ? "try again" : error.detail);
}
"""


def described():
    """Return the document of this version; no service needs to run."""
    return document(create_app(Settings(database_url="postgresql://user@localhost/none")))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Write the document to a file."""
    file = tmp_path_factory.mktemp("openapi") / "openapi.json"
    file.write_text(json.dumps(described(), indent=1))
    return file


def test_spectral_finds_nothing(path):
    tools = npm.installed()
    command = [
        tools / "node_modules" / ".bin" / "spectral", "lint", "--fail-severity", "hint",
        "--ruleset", "spectral.yaml", path,
    ]  # fmt: skip
    done = npm.run(command, tools)
    assert done.returncode == 0, done.stdout


def test_redocly_finds_nothing(path):
    done = npm.run(["node", "redocly.mjs", path], npm.installed())
    assert done.returncode == 0, done.stdout


def test_the_linters_report_a_broken_document(path, tmp_path):
    broken = described()
    operation = broken["paths"]["/v1/reservations"]["post"]
    operation["responses"]["201"]["content"]["application/json"]["example"] = {"id": 1}
    del broken["tags"]
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(broken))
    tools = npm.installed()
    spectral = [tools / "node_modules" / ".bin" / "spectral", "lint", "--fail-severity", "hint"]
    assert npm.run([*spectral, "--ruleset", "spectral.yaml", file], tools).returncode != 0
    assert npm.run(["node", "redocly.mjs", file], tools).returncode != 0


def bodies_of_the_readme():
    """Return the bodies of the reservations in the README, unchanged."""
    return RESERVATION.findall((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def typescript(path, tmp_path_factory):
    """Generate types with openapi-typescript; return their directory."""
    tools = npm.installed()
    directory = tmp_path_factory.mktemp("typescript")
    binary = tools / "node_modules" / ".bin" / "openapi-typescript"
    made = npm.run([binary, path, "-o", directory / "api.ts"], tools)
    assert made.returncode == 0, made.stdout
    (directory / "node_modules").symlink_to(tools / "node_modules")
    return directory


def errors_of(directory, programs):
    """Return the errors that `tsc --strict` finds in the programs; program n is `program{n}.ts`."""
    names = [f"program{number}.ts" for number in range(len(programs))]
    for name, source in zip(names, programs, strict=True):
        (directory / name).write_text(source)
    command = [
        npm.installed() / "node_modules" / ".bin" / "tsc", "--strict", "--noEmit",
        "--skipLibCheck", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "esnext",
        "--moduleResolution", "bundler", *names,
    ]  # fmt: skip
    return npm.run(command, directory).stdout


def test_typescript_compiles_the_requests_of_the_readme(typescript):
    bodies = bodies_of_the_readme()
    assert len(bodies) >= 2
    assert errors_of(typescript, [COMPILED.replace("BODY", body) for body in bodies]) == ""


def test_typescript_refuses_wrong_requests(typescript):
    body = bodies_of_the_readme()[0]
    wrong = [
        body.replace('"seq"', '"sequence"'),
        body.replace('"quantity": 2', '"quantity": "2"'),
        body.replace('"lines"', '"line"'),
    ]
    errors = errors_of(typescript, [COMPILED.replace("BODY", each) for each in wrong])
    assert set(re.findall(r"^(program\d)\.ts.*error TS", errors, re.MULTILINE)) == {
        "program0",
        "program1",
        "program2",
    }


@pytest.fixture(scope="module")
def python_client(path, tmp_path_factory):
    """Generate a package with openapi-python-client, without warnings; return its directory."""
    directory = tmp_path_factory.mktemp("python-client")
    command = [
        Path(sys.executable).parent / "openapi-python-client", "generate", "--fail-on-warning",
        "--path", path, "--meta", "none", "--output-path", directory / "made_client",
        "--config", ROOT / "tests" / "openapi" / "python_client.yaml",
    ]  # fmt: skip
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={"PATH": str(Path(sys.executable).parent)},  # the generator looks for ruff here
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "arning" not in done.stdout
    return directory


def test_a_python_client_has_a_function_for_every_operation(python_client):
    made = {file.stem for file in python_client.glob("made_client/api/*/*.py")} - {"__init__"}
    assert made == {
        operation["operationId"]
        for methods in described()["paths"].values()
        for operation in methods.values()
    }


async def test_a_python_client_reserves_and_imports(python_client, postgres_url):
    async with fresh_database(postgres_url) as url:
        with running_server(url) as server:
            command = [sys.executable, "-c", PROGRAM, server.url, server.key]
            done = npm.run(command, python_client)
            assert (done.returncode, done.stdout) == (0, ""), done.stdout


PROGRAM = """\
import io, sys, warnings
warnings.simplefilter("error")
from made_client import AuthenticatedClient
from made_client.api.imports import import_stock
from made_client.api.reservations import confirm_reservation, list_reservations, reserve
from made_client.api.stock import get_stock, set_stock
from made_client.models import (
    InsufficientStockProblem, LineBody, Reservation, ReservationPage, ReserveBody, State, Stock,
    StockBody, VersionMismatchProblem,
)
from made_client.types import File

def body(seq, quantity):
    return ReserveBody(seq=seq, lines=[LineBody(sku="A", quantity=quantity)], hold_seconds=900)

with AuthenticatedClient(sys.argv[1], sys.argv[2]) as client:
    five = StockBody(available=5)
    made = set_stock.sync("A", "main", client=client, body=five, if_none_match="*")
    assert isinstance(made, Stock) and made.version == 1
    stale = set_stock.sync("A", "main", client=client, body=five, if_match='"7"')
    assert isinstance(stale, VersionMismatchProblem) and stale.current == 1
    held = reserve.sync(client=client, body=body("order-1", 2))
    assert isinstance(held, Reservation) and held.lines[0].quantity == 2
    again = reserve.sync_detailed(client=client, body=body("order-1", 2))
    assert again.headers["Idempotency-Replayed"] == "true" and again.parsed == held
    short = reserve.sync(client=client, body=body("order-2", 4))
    assert isinstance(short, InsufficientStockProblem) and short.shortages[0].available == 3
    sold = confirm_reservation.sync(held.id, client=client)
    assert sold.state is State.CONFIRMED
    page = list_reservations.sync(client=client, limit=1)
    assert isinstance(page, ReservationPage) and page.next_cursor
    file = File(payload=io.BytesIO(b"sku,available\\nB,3\\n"))
    assert import_stock.sync(client=client, job="monday", body=file).created == 1
    assert get_stock.sync("B", "main", client=client).available == 3
"""
