"""More connections than file descriptors: the service refuses some and keeps all others."""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from service.ops.open_connections import DESCRIPTORS_RESERVED, connections_max
from tests.faults.test_renewal import all_ended, workers_of
from tests.raw import dial, head_of
from tests.server import Server, running_server

DESCRIPTORS = 200
POOL = 8
ROOM = DESCRIPTORS - DESCRIPTORS_RESERVED - POOL
HELD = {"seq": "1", "hold_seconds": 1, "lines": [{"sku": "A", "quantity": 1}]}


@asynccontextmanager
async def short_of_descriptors(database_url: str) -> AsyncIterator[Server]:
    """A server whose worker may open two hundred descriptors."""
    with running_server(database_url, module="tests.patient", pool_size=POOL) as server:
        limits = (DESCRIPTORS, DESCRIPTORS)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        before = workers_of(server)
        server.process.send_signal(signal.SIGHUP)
        await all_ended(before)
        yield server


@pytest.mark.parametrize("sent", [b"", b"GET /health/li", b"\r\n"])
async def test_idle_connections_make_room_for_new_ones(database_url, sent):
    async with short_of_descriptors(database_url) as server, AsyncExitStack() as stack:
        for _ in range(300):
            wire = await stack.enter_async_context(dial(server))
            wire.writer.write(sent)
        async with httpx.AsyncClient(
            base_url=server.url, headers=server.headers, timeout=60
        ) as http:
            create = {"If-None-Match": "*"}
            body = {"available": 5}
            answer = await http.put("/v1/stock/A/main", json=body, headers=create)
            assert answer.status_code == 201
            assert (await http.post("/v1/reservations", json=HELD)).status_code == 201
            await held_units_are_back(http)
        (worker,) = workers_of(server)
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) < DESCRIPTORS
        assert "database_lost" not in server.log.read_text()


async def held_units_are_back(http: httpx.AsyncClient) -> None:
    """Wait until the sweeper has expired the hold, for which it needs its database connection."""
    async with asyncio.timeout(60):
        while (await http.get("/v1/stock/A/main")).json()["held"]:
            await asyncio.sleep(0.05)


async def test_when_all_connections_are_in_use_one_more_is_refused_with_the_reason(database_url):
    async with short_of_descriptors(database_url) as server, AsyncExitStack() as stack:
        expects = "Expect: 100-continue"
        head = head_of(server, "POST", "/v1/reservations", expects, length=100)
        for _ in range(ROOM):
            wire = await stack.enter_async_context(dial(server))
            wire.writer.write(head)
            await wire.reader.readuntil(b"100 Continue\r\n\r\n")
        refused = await stack.enter_async_context(dial(server))
        answer = await refused.answer()
        assert answer is not None
        assert (answer.status, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        await stack.aclose()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            assert (await http.get("/health/ready")).status_code == 200


def test_the_soft_limit_is_raised_as_far_as_the_hard_limit_and_the_need_allow(monkeypatch):
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 100_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    assert connections_max(8) == 10_000
    assert set_to == [(10_000 + DESCRIPTORS_RESERVED + 8, 100_000)]
