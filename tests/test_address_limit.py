"""The limit on the open connections of an address holds over all workers of a service."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from service.input.proxies import TrustedProxies
from service.ops.address_limit import TLS_FACTOR, AddressLimit, ConnectionTable, rows_for
from tests.certificates import new_pair
from tests.conftest import fresh_database
from tests.faults.processes import family_of, frozen
from tests.raw import Wire, dial, head_of
from tests.server import Server, running_server

LIMIT = 6


def limits(*rows: int, proxies: str = "", connections_max: int = 2) -> list[AddressLimit]:
    table = ConnectionTable(workers=2)
    trusted = TrustedProxies(proxies)
    return [AddressLimit(table, row, connections_max, trusted) for row in rows]


def test_connections_are_added_up_over_the_workers():
    one, two = limits(0, 5)
    places = [one.enter("10.0.0.1"), two.enter("10.0.0.1"), one.enter("10.0.0.1")]
    assert [place.is_excess for place in places] == [False, False, True]
    assert not two.enter("10.0.0.2").is_excess
    two.leave(places[1])
    one.leave(places[2])
    assert not two.enter("10.0.0.1").is_excess
    assert two.enter("10.0.0.1").is_excess


def test_the_connections_of_an_ended_worker_are_forgotten():
    one, two = limits(0, 1)
    for _ in range(2):
        one.enter("10.0.0.1")
    assert two.enter("10.0.0.1").is_excess
    one.table.clear(0)
    assert not two.enter("10.0.0.1").is_excess
    assert two.enter("10.0.0.1").is_excess


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "nonsense", False),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_client(first, second, is_same):
    (one,) = limits(0, connections_max=1)
    one.enter(first)
    assert one.enter(second).is_excess == is_same


def test_a_trusted_proxy_has_no_limit():
    (one,) = limits(0, proxies="10.0.0.0/8", connections_max=1)
    assert [one.enter("10.0.0.1") for _ in range(5)] == [None] * 5
    assert [one.enter("11.0.0.1").is_excess for _ in range(2)] == [False, True]


def test_many_addresses_do_not_exhaust_each_other():
    """Ten thousand other connections share the cells."""
    one, two = limits(0, 1, connections_max=3)
    for number in range(10_000):
        (one, two)[number % 2].enter(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    excess = 0
    for number in range(1_000):
        excess += one.enter(f"11.0.{number >> 8}.{number & 255}").is_excess
    assert excess <= 10


def test_far_more_connections_than_allowed_are_told_apart():
    (one,) = limits(0, connections_max=2)
    far = [one.enter("10.0.0.1").is_far_beyond for _ in range(TLS_FACTOR * 2 + 1)]
    assert far == [False] * (TLS_FACTOR * 2) + [True]


def test_processes_share_the_table():
    table = ConnectionTable(workers=1)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_enter, args=(table, 1, 3))
    child.start()
    child.join()
    here = AddressLimit(table, 0, 3, TrustedProxies())
    assert here.enter("10.0.0.1").is_excess


def _enter(table: ConnectionTable, row: int, times: int) -> None:
    limit = AddressLimit(table, row, 3, TrustedProxies())
    for _ in range(times):
        limit.enter("10.0.0.1")


def test_a_renewal_finds_free_rows():
    assert rows_for(4) > 2 * 4


# Against a server with two workers


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[Server]:
    async with fresh_database(postgres_url) as url:
        with running_server(url, workers=2, connections_per_address_max=LIMIT) as started:
            yield started


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


def workers_of(server: Server) -> list[int]:
    return family_of(server.process.pid)[1:]


async def held(server: Server, stack: AsyncExitStack) -> Wire | None:
    """An open connection that was answered; None if it was refused."""
    wire = await stack.enter_async_context(dial(server))
    await wire.send(head_of(server, "GET", "/health/live"))
    answer = await wire.answer()
    assert answer is not None
    if answer.status == 200:
        return wire
    assert answer.status == 429
    problem = answer.json()
    assert problem["code"] == "rate_limited"
    assert problem["retry_after"] == int(answer.headers["retry-after"]) == 1
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"
    assert await wire.answer() is None
    return None


async def admitted(server: Server, stack: AsyncExitStack, number: int) -> list[Wire]:
    """Open connections until `number` are admitted; those of ended ones are forgotten soon."""
    wires: list[Wire] = []
    async with asyncio.timeout(60):
        while len(wires) < number:
            wire = await held(server, stack)
            if wire is None:
                await asyncio.sleep(0.05)
            else:
                wires.append(wire)
    return wires


async def on_each_worker(server: Server, stack: AsyncExitStack, number: int) -> list[list[Wire]]:
    """Open connections of each worker, while the other one is frozen."""
    first, second = workers_of(server)
    wires = []
    for frozen_one in (second, first):
        with frozen([frozen_one]):
            wires.append([await held(server, stack) for _ in range(number)])
    assert None not in wires[0] + wires[1]
    return wires


async def test_the_limit_holds_over_two_workers(server, stack):
    wires = await on_each_worker(server, stack, LIMIT // 2)
    for _ in range(5):
        assert await held(server, stack) is None
    for wire in (wires[0][0], wires[1][0]):
        await wire.send(head_of(server, "GET", "/health/live"))
        assert (await wire.answer()).status == 200
        wire.writer.close()
        assert len(await admitted(server, stack, 1)) == 1
        assert await held(server, stack) is None


async def test_a_refused_client_can_read_the_answer_before_it_sends(server, stack):
    await on_each_worker(server, stack, LIMIT // 2)
    wire = await stack.enter_async_context(dial(server))
    assert (await wire.answer()).status == 429


async def test_the_connections_of_a_killed_worker_are_free_again(server, stack):
    wires = await on_each_worker(server, stack, LIMIT // 2)
    killed = workers_of(server)[0]
    os.kill(killed, signal.SIGKILL)
    for wire in wires[0]:
        with suppress(ConnectionError):
            assert await wire.answer() is None
    await admitted(server, stack, LIMIT // 2)
    assert await held(server, stack) is None
    assert killed not in workers_of(server)


async def test_a_renewal_keeps_the_count(server, stack):
    """The old workers close their idle connections while they drain."""
    old = workers_of(server)
    wires = [wire for each in await on_each_worker(server, stack, LIMIT // 2) for wire in each]
    server.process.send_signal(signal.SIGHUP)
    for wire in wires:
        assert await wire.answer() is None
    await admitted(server, stack, LIMIT)
    assert await held(server, stack) is None
    async with asyncio.timeout(60):
        while set(workers_of(server)) & set(old):
            await asyncio.sleep(0.05)
    assert await held(server, stack) is None


# With TLS


@pytest.fixture
async def encrypted(postgres_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    pair = new_pair(tmp_path)
    async with fresh_database(postgres_url) as url:
        with running_server(
            url,
            trusted=pair.authority.trusted(),
            connections_per_address_max=LIMIT,
            **pair.settings,
        ) as started:
            yield started


async def test_a_client_of_tls_reads_the_refusal(encrypted, stack):
    wires = await admitted(encrypted, stack, LIMIT)
    for _ in range(3):
        assert await held(encrypted, stack) is None
    wires[0].writer.close()
    assert len(await admitted(encrypted, stack, 1)) == 1
    assert await held(encrypted, stack) is None


async def test_connections_without_a_handshake_count_and_far_too_many_are_closed(encrypted, stack):
    await admitted(encrypted, stack, 1)
    plain = replace(encrypted, trusted=None)
    waiting = [await stack.enter_async_context(dial(plain)) for _ in range(LIMIT * TLS_FACTOR - 1)]
    assert await (await stack.enter_async_context(dial(plain))).reader.read() == b""
    for wire in waiting[: -LIMIT + 1]:
        wire.writer.close()
    assert await held_soon(encrypted, stack) is None
    for wire in waiting:
        wire.writer.close()
    assert len(await admitted(encrypted, stack, LIMIT - 1)) == LIMIT - 1
    assert await held(encrypted, stack) is None


async def held_soon(server: Server, stack: AsyncExitStack) -> Wire | None:
    """As `held`, once the server has noticed that connections were closed."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await held(server, stack)
            except OSError:  # closed before the handshake
                await asyncio.sleep(0.05)
