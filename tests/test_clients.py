"""Widespread clients and proxies: the HTTP client of the JDK, and nginx with gzip."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.domain.identifiers import reservation_id
from tests.brokers import missing
from tests.conftest import assert_books_balance, fresh_database
from tests.nginx import running_nginx
from tests.server import Server, running_server

JDK_CLIENT = Path(__file__).parent / "data" / "JdkClient.java"


@pytest.fixture(scope="module")
async def server(postgres_url: str) -> AsyncIterator[Server]:
    async with fresh_database(postgres_url) as url:
        with running_server(url) as started:
            async with httpx.AsyncClient(base_url=started.url, headers=started.headers) as http:
                body, creates = {"available": 1000}, {"If-None-Match": "*"}
                answer = await http.put("/v1/stock/S/main", json=body, headers=creates)
                assert answer.status_code == 201
            yield started
        await assert_books_balance(url)


async def test_the_jdk_client_loses_no_body(server):
    """By default this client sends `Upgrade: h2c`."""
    if shutil.which("javac") is None:
        missing("a JDK is not installed (make services)")
    line = {"sku": "S", "quantity": 10}
    reserve = json.dumps({"seq": "jdk", "hold_seconds": 900, "lines": [line]})
    confirm = json.dumps({"lines": [{**line, "quantity": 3}]})
    id_ = reservation_id("admin", "jdk")
    process = await asyncio.create_subprocess_exec(
        "java", str(JDK_CLIENT), server.url, server.key,
        "/v1/reservations", reserve, f"/v1/reservations/{id_}/confirm", confirm,
        "/v1/reservations", reserve,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, _ = await process.communicate()
    answers = [line.split(" ", 2) for line in printed.decode().splitlines()]
    assert [(status, version) for status, version, _ in answers] == [
        ("201", "HTTP_1_1"), ("200", "HTTP_1_1"), ("200", "HTTP_1_1")
    ]  # fmt: skip
    confirmed = json.loads(answers[1][2])
    assert confirmed["lines"][0] == {
        "sku": "S", "location": "main", "quantity": 10, "confirmed": 3, "refunded": 0
    }  # fmt: skip


async def test_an_etag_that_nginx_has_weakened_is_accepted(server):
    """When nginx compresses an answer, it changes the ETag `"1"` to `W/"1"`."""
    with running_nginx([server.url]) as url:
        async with httpx.AsyncClient(base_url=url, headers=server.headers) as http:
            body = {"available": 5, "name": "a name of some length, to be worth compressing"}
            path, creates = "/v1/stock/N/main", {"If-None-Match": "*"}
            assert (await http.put(path, json=body, headers=creates)).status_code == 201
            read = await http.get(path)
            assert read.headers["etag"] == 'W/"1"'
            changed = await http.put(path, json=body, headers={"If-Match": read.headers["etag"]})
            assert changed.status_code == 200
            stale = await http.put(path, json=body, headers={"If-Match": read.headers["etag"]})
            assert stale.status_code == 412
            unchanged = {"If-None-Match": changed.headers["etag"]}
            assert (await http.get(path, headers=unchanged)).status_code == 304
