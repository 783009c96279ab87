"""Clients are accepted many at a time; an answer leaves as a whole, before its connection ends."""

import asyncio
import socket

import pytest
import uvloop

from service.ops.listener import accepting
from service.ops.transport import CorkedTransport


class Wire:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def corked() -> tuple[CorkedTransport, Wire]:
    wire = Wire()
    return CorkedTransport(wire, asyncio.get_running_loop()), wire


async def test_what_is_written_in_one_turn_is_sent_as_a_whole():
    transport, wire = corked()
    transport.write(b"head, ")
    transport.write(b"body")
    assert wire.told == []
    await asyncio.sleep(0)
    assert wire.told == [b"head, body"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert wire.told == [b"head, body", b"next"]


async def test_what_was_written_is_sent_before_the_connection_is_closed():
    transport, wire = corked()
    transport.write(b"bye")
    transport.close()
    await asyncio.sleep(0)
    assert wire.told == [b"bye", "close"]


async def test_nothing_is_written_to_a_connection_that_has_closed_meanwhile():
    transport, wire = corked()
    transport.write(b"late")
    wire.close()
    await asyncio.sleep(0)
    assert wire.told == ["close"]


async def test_in_everything_else_it_is_the_transport():
    transport, _ = corked()
    assert transport.get_extra_info("peer") == "the peer"


def most_accepted_in_a_turn(listeners_of) -> int:
    """Have sixty clients wait before a loop begins to listen."""
    turns = [0]

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport):
            turns[-1] += 1
            transport.close()

    async def accept(listener):
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Accepted, sock=each) for each in listeners_of(listener)]
        while sum(turns) < len(clients):
            turns.append(0)
            await asyncio.sleep(0)
        for server in servers:
            server.close()
            await server.wait_closed()

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(60)]
        uvloop.run(accept(listener))
        for client in clients:
            client.close()
    return max(turns)


async def test_many_clients_are_accepted_in_one_turn_of_the_loop():
    """Of a loop of its own, as a worker has it."""
    most = [
        await asyncio.to_thread(most_accepted_in_a_turn, listeners_of)
        for listeners_of in (lambda listener: [listener], accepting)
    ]
    assert most[0] == 1  # or `accepting` can go
    assert most[1] >= 8


def test_a_blocking_listener_is_refused():
    """One process's handle would have all others wait in `accept`."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ValueError, match="blocking"),
    ):
        accepting(listener)
