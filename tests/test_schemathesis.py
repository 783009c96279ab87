"""Schemathesis runs all of its checks against a real server, and follows the document's links.

The seed is fixed, and no operation of the document may be left out. `make schemathesis` runs it for
longer (`ARGS="--seed 7 -n 500"`).
"""

import asyncio
import os
import re
import sys
from pathlib import Path

import httpx

from tests.conftest import assert_books_balance, fresh_database
from tests.server import Server, running_server

ROOT = Path(__file__).parent.parent
CONFIGURATION = ROOT / "tests" / "schemathesis" / "schemathesis.toml"
ARGUMENTS = ("--seed", "1", "-n", "10")


async def run_schemathesis(server: Server, *arguments: str) -> tuple[int, str]:
    """Run Schemathesis; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file", str(CONFIGURATION), "run", f"{server.url}/schema/openapi.json",
        "--header", f"Authorization: Bearer {server.key}",
        "--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure", *arguments,
        cwd=ROOT,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.schemathesis.hooks",
            "PYTHONPATH": str(ROOT),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


def operations_tested(printed: str) -> int:
    """The number of operations that a run has tested; 0 if it has left out any."""
    found = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", printed)
    assert found, printed
    return int(found[3]) if found[1] == found[2] == found[3] else 0


def openapi_operations(server: Server) -> list[str]:
    """The operations of a server's document but the one that Schemathesis reads it from."""
    document = "/schema/openapi.json"
    paths = httpx.get(f"{server.url}{document}").json()["paths"]
    return [f"{method} {path}" for path in paths if path != document for method in paths[path]]


async def test_schemathesis_finds_nothing(postgres_url):
    async with fresh_database(postgres_url) as url:
        with running_server(url) as server:
            code, printed = await run_schemathesis(server, *ARGUMENTS)
            assert code == 0, printed
            assert "Stateful" in printed
            assert operations_tested(printed) == len(openapi_operations(server))
            log = server.log.read_text()
            assert "Traceback" not in log
        await assert_books_balance(url)
