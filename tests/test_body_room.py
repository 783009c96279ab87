"""Large bodies wait for memory: each key has a limit, and all keys together have a limit."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from bench.observation import find_workers, resident_bytes
from service.domain.errors import Overloaded
from service.http.limits import body_room
from service.http.limits.body_room import BYTES_MAX, BYTES_OF_A_KEY_MAX, BodyRoom
from tests.raw import dial, head_of
from tests.server import running_server

MIB = 2**20
BODIES = 60
JSON = "Content-Type: application/json"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(body_room, "WAIT_SECONDS_MAX", 0.01)


async def test_one_key_can_use_only_a_part_of_the_room(impatient):
    room = BodyRoom()
    async with room.hold(b"a", 4 * MIB), room.hold(b"a", 4 * MIB):
        with pytest.raises(Overloaded):
            async with room.hold(b"a", 1):
                pass
        async with room.hold(b"b", 4 * MIB):
            pass
    async with room.hold(b"a", BYTES_OF_A_KEY_MAX):
        pass


async def test_the_room_of_all_keys_is_limited(impatient):
    room = BodyRoom()
    holding = [room.hold(b"%d" % number, 4 * MIB) for number in range(BYTES_MAX // MIB // 4)]
    for one in holding:
        await one.__aenter__()
    with pytest.raises(Overloaded):
        async with room.hold(b"late", 1):
            pass
    for one in holding:
        await one.__aexit__(None, None, None)
    async with room.hold(b"late", 4 * MIB):
        pass


async def test_a_body_waits_until_there_is_room(monkeypatch):
    room, order = BodyRoom(), []

    async def one(name):
        async with room.hold(b"a", BYTES_OF_A_KEY_MAX):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*map(one, range(20)))
    assert sorted(order) == list(range(20))


async def test_a_cancelled_request_gives_its_room_back(impatient):
    room = BodyRoom()
    is_held = asyncio.Event()

    async def hold():
        async with room.hold(b"a", BYTES_OF_A_KEY_MAX):
            is_held.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await is_held.wait()
    holding.cancel()
    await asyncio.wait({holding})
    async with room.hold(b"a", BYTES_OF_A_KEY_MAX):
        pass


async def test_a_key_whose_body_took_long_to_process_rests():
    """A key that sends one such body after another uses a tenth of the worker's time at most."""
    room, took = BodyRoom(), 0.02
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        async with room.hold(b"a", BYTES_OF_A_KEY_MAX) as share:
            share.arrived_at = time.monotonic()
            time.sleep(took)  # noqa: ASYNC251 - it blocks the loop, as parsing does
        async with room.hold(b"b", BYTES_OF_A_KEY_MAX):
            pass
    assert asyncio.get_running_loop().time() - began >= 2 * body_room.REST_FACTOR * took


async def test_a_rest_for_several_bodies_ends_once():
    room = BodyRoom()
    for _ in range(20):
        async with room.hold(b"a", 1) as one, room.hold(b"a", 1) as other:
            one.arrived_at = other.arrived_at = time.monotonic() - 0.0005
    assert not room._taken
    async with room.hold(b"a", 1):
        assert not room._resting


async def test_a_rest_has_a_limit(monkeypatch):
    monkeypatch.setattr(body_room, "REST_SECONDS_MAX", 0.01)
    room = BodyRoom()
    async with room.hold(b"a", BYTES_OF_A_KEY_MAX) as share:
        share.arrived_at = time.monotonic() - 3600
    async with asyncio.timeout(1), room.hold(b"a", BYTES_OF_A_KEY_MAX):
        pass


async def test_the_memory_for_unfinished_bodies_of_one_key_is_limited(database_url):
    """Sixty batches of 4 MiB without their last byte; those without room get an error."""
    length = f"Content-Length: {4 * MIB}"
    with running_server(database_url) as server:
        async with AsyncExitStack() as stack:
            (worker,) = find_workers(server.process.pid)
            before = resident_bytes(worker)
            head = head_of(server, "POST", "/v1/reservations/batch", JSON, length)
            for _ in range(BODIES):
                wire = await stack.enter_async_context(dial(server))
                wire.writer.write(head + b" " * (4 * MIB - 1))
            refused = await wire.answer()
            assert refused is not None
            assert (refused.status, refused.json()["code"]) == (503, "overloaded")
            assert resident_bytes(worker) - before < 64 * MIB
