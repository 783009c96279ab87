"""Workers are killed and renewed under load: every client is answered, and no request is lost."""

import asyncio
import os
import random
import signal
import ssl
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.brokers import free_port
from tests.faults.processes import family_of, is_postgres, is_running
from tests.nginx import running_nginx
from tests.server import ADMIN_KEY, Server, running_server

CLIENTS = 12
ROUNDS = int(os.environ.get("HOLDFAST_TEST_RENEWALS", "10"))
SECONDS_MAX = 60.0  # for a worker to start or end, or for an answer: only a hang takes so long
KEPT = httpx.Limits(keepalive_expiry=None)  # a client keeps its connection while it is idle
PATIENT = {"module": "tests.patient", "drain_seconds": 60}
"""A server whose draining workers close no connection between two requests of a slow client."""


@dataclass
class Tally:
    """The answers that the clients received."""

    answered: Counter[int] = field(default_factory=Counter)
    """The number of answers to each client."""
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    is_over: bool = False
    """The clients send no more."""


async def send_forever(
    url: str,
    headers: dict[str, str],
    tally: Tally,
    client: int,
    *,
    keeps: bool,
    pause: float,
    verify: ssl.SSLContext | bool,
) -> None:
    """Reserve again and again, on one connection or on a new one each time."""
    limits = KEPT if keeps else httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=2 * SECONDS_MAX, verify=verify
    ) as http:
        while not tally.is_over:
            await asyncio.sleep(pause)
            body = {"seq": uuid.uuid4().hex, "lines": [{"sku": "A", "quantity": 1}]}
            try:
                answer = await http.post("/v1/reservations", json=body)
            except httpx.HTTPError as error:
                tally.lost.append(repr(error))
            else:
                tally.answered[client] += 1
                if answer.status_code != 201:
                    tally.refused.append(answer.text)


@asynccontextmanager
async def load(
    url: str, headers: dict[str, str], pause: float = 0.0, verify: ssl.SSLContext | bool = True
) -> AsyncIterator[Tally]:
    """Twelve clients; half of them keep their connection. They pause before each request."""
    async with httpx.AsyncClient(base_url=url, headers=headers, verify=verify) as http:
        body = {"available": 10**9}
        await http.put("/v1/stock/A/main", json=body, headers={"If-None-Match": "*"})
    tally = Tally()
    clients = [
        asyncio.create_task(
            send_forever(
                url, headers, tally, number, keeps=bool(number % 2), pause=pause, verify=verify
            )
        )
        for number in range(CLIENTS)
    ]
    try:
        yield tally
    finally:
        tally.is_over = True
        await asyncio.wait(clients, timeout=SECONDS_MAX)  # httpx leaves a cancelled handshake open
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def workers_of(server: Server) -> set[int]:
    return {pid for pid in family_of(server.process.pid)[1:] if not is_postgres(pid)}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not condition():
            await asyncio.sleep(0.02)


async def all_ended(pids: set[int]) -> None:
    await until(lambda: not any(map(is_running, pids)))


async def everyone_is_answered(tally: Tally) -> None:
    """Wait until each client has received another answer."""
    before = tally.answered.copy()
    await until(lambda: all(tally.answered[each] > before[each] for each in range(CLIENTS)))


async def test_a_worker_that_starts_keeps_no_client_waiting(database_url):
    """A starting worker must not make the listener blocking, which it shares with the others.

    A worker that waits in `accept` leaves its clients without an answer.
    """
    chance = random.Random(17)
    with running_server(database_url, workers=3) as server:
        async with load(server.url, server.headers) as tally:
            for _ in range(ROUNDS):
                os.kill(chance.choice(sorted(workers_of(server))), signal.SIGKILL)
                await everyone_is_answered(tally)
                server.process.send_signal(signal.SIGHUP)
                await everyone_is_answered(tally)


async def test_renewing_the_workers_loses_no_request(database_url):
    with running_server(database_url, workers=2, **PATIENT) as server:
        async with load(server.url, server.headers) as tally:
            for _ in range(ROUNDS):
                before = workers_of(server)
                server.process.send_signal(signal.SIGHUP)
                await all_ended(before)
                await everyone_is_answered(tally)
    assert (tally.lost, tally.refused) == ([], [])


async def test_a_worker_that_drains_answers_what_arrives_on_the_connections_it_has(database_url):
    """Each of these answers says that it is the last one on its connection."""
    with running_server(database_url, workers=1, **PATIENT) as server:
        (before,) = workers_of(server)
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=SECONDS_MAX, limits=KEPT) as one,
            httpx.AsyncClient(base_url=server.url, timeout=SECONDS_MAX, limits=KEPT) as other,
            asyncio.timeout(2 * SECONDS_MAX),
        ):
            for client in (one, other):
                assert (await client.get("/health/live")).status_code == 200
            server.process.send_signal(signal.SIGHUP)
            while "connection" not in (answer := await one.get("/health/live")).headers:
                await asyncio.sleep(0.02)
            assert is_running(before)  # the other client's connection is still open
            for last in (answer, await other.get("/health/live")):
                assert (last.status_code, last.headers["connection"]) == (200, "close")
            assert (await one.get("/health/live")).status_code == 200  # by the new worker
        await until(lambda: not is_running(before))


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"])
async def test_an_idle_connection_does_not_stop_a_worker_from_draining(database_url, sent):
    with running_server(database_url, workers=1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        if sent:
            await reader.readuntil(b"}")
        (before,) = workers_of(server)
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: not is_running(before))
        assert await reader.read() == b""
        writer.close()


async def test_a_rolling_restart_behind_nginx_loses_no_request(database_url):
    """Two services share a database; each is stopped and started in turn, again and again."""
    ports = [free_port(), free_port()]

    def start(port: int) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(running_server(database_url, port=port, **PATIENT))
        return stack

    services = [await asyncio.to_thread(start, port) for port in ports]
    try:
        with running_nginx([f"http://127.0.0.1:{port}" for port in ports]) as url:
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            # The pauses leave the processor to the services that start.
            async with load(url, headers, pause=0.02) as tally:
                for turn in range(ROUNDS):
                    which = turn % 2
                    await asyncio.to_thread(services[which].close)
                    services[which] = await asyncio.to_thread(start, ports[which])
                    await everyone_is_answered(tally)
    finally:
        for service in services:
            await asyncio.to_thread(service.close)
    assert (tally.lost, tally.refused) == ([], [])
