"""SIGTERM: the service turns unready, stops accepting, answers all requests, and then ends."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx

from tests.server import Server, running_server

SECONDS_MAX = 60.0
BODY = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}


@asynccontextmanager
async def shop(database_url: str, **settings: float) -> AsyncIterator[Server]:
    """A server with ten units of stock."""
    with running_server(database_url, **settings) as started:
        async with connected(started) as http:
            await http.put(
                "/v1/stock/A/main", json={"available": 10}, headers={"If-None-Match": "*"}
            )
        yield started


def connected(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=SECONDS_MAX)


@asynccontextmanager
async def a_request_under_way(server: Server, url: str) -> AsyncIterator[asyncio.Task]:
    """A reservation that waits for a row lock, which it gets when the block ends."""
    other = await asyncpg.connect(url)
    async with connected(server) as http:
        async with other.transaction():
            await other.execute("SELECT FROM stock FOR UPDATE")
            task = asyncio.create_task(http.post("/v1/reservations", json=BODY))
            await waits_for_a_lock(other)
            yield task
        await task
    await other.close()


async def waits_for_a_lock(connection: asyncpg.Connection) -> None:
    """Wait until a session of this database waits for a lock."""
    async with asyncio.timeout(SECONDS_MAX):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ):
            await asyncio.sleep(0.005)
            # Within a transaction, the view shows its first state until it is cleared.
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def test_the_service_is_unready_first_while_it_still_serves_requests(database_url):
    """It serves for five seconds more: long enough for a request on a busy machine."""
    async with shop(database_url, unready_seconds=5) as server, connected(server) as http:
        assert (await http.get("/health/ready")).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS_MAX):
            while (await http.get("/health/ready")).status_code == 200:
                pass
        assert (await http.post("/v1/reservations", json=BODY)).status_code == 201
        assert await asyncio.to_thread(server.process.wait, SECONDS_MAX) == 0


async def test_a_request_under_way_is_answered_before_the_service_ends(database_url):
    async with shop(database_url, unready_seconds=0) as server:
        async with a_request_under_way(server, database_url) as task:
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SECONDS_MAX):
                while await accepts(server):
                    await asyncio.sleep(0.01)
            assert not task.done()
        assert task.result().status_code == 201
        assert await asyncio.to_thread(server.process.wait, SECONDS_MAX) == 0


async def accepts(server: Server) -> bool:
    url = httpx.URL(server.url)
    try:
        _, writer = await asyncio.open_connection(url.host, url.port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_request_that_never_ends_is_given_up_after_the_grace_time(database_url):
    """It is answered, nothing is written, and the process ends."""
    async with shop(database_url, drain_seconds=1, unready_seconds=0) as server:
        other = await asyncpg.connect(database_url)
        async with other.transaction(), connected(server) as http:
            await other.execute("SELECT FROM stock FOR UPDATE")
            task = asyncio.create_task(http.post("/v1/reservations", json=BODY))
            await waits_for_a_lock(other)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.process.wait, SECONDS_MAX)
            answer = await task
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert await other.fetchval("SELECT count(*) FROM movement WHERE kind = 'reserve'") == 0
        await other.close()


ORPHAN = """
import os, time
from service.ops.worker import end_with_supervisor

supervisor = os.getpid()
if os.fork() == 0:
    while os.getppid() == supervisor:
        time.sleep(0.001)
    end_with_supervisor(supervisor)
    print("lives on", flush=True)
"""


def test_a_worker_whose_supervisor_dies_during_the_fork_ends_too():
    """The supervisor ends before the worker's first line runs, so no signal will come."""
    command = [sys.executable, "-c", ORPHAN]
    printed = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60
    ).stdout
    assert printed == ""
