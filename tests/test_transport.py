"""A worker accepts many clients in one turn and sends each answer in one piece."""

import asyncio
import socket

import pytest
import uvloop

from service.ops.listener import accepting
from service.ops.transport import CorkedTransport


class Wire:
    """A transport that records its calls."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "close" in self.calls

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def corked() -> tuple[CorkedTransport, Wire]:
    wire = Wire()
    return CorkedTransport(wire, asyncio.get_running_loop()), wire


async def test_the_writes_of_one_turn_are_sent_together():
    transport, wire = corked()
    transport.write(b"head, ")
    transport.write(b"body")
    assert wire.calls == []
    await asyncio.sleep(0)
    assert wire.calls == [b"head, body"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert wire.calls == [b"head, body", b"next"]


async def test_written_bytes_are_sent_before_the_connection_is_closed():
    transport, wire = corked()
    transport.write(b"bye")
    transport.close()
    await asyncio.sleep(0)
    assert wire.calls == [b"bye", "close"]


async def test_nothing_is_written_to_a_closed_connection():
    transport, wire = corked()
    transport.write(b"late")
    wire.close()
    await asyncio.sleep(0)
    assert wire.calls == ["close"]


async def test_other_methods_are_passed_to_the_transport():
    transport, _ = corked()
    assert transport.get_extra_info("peer") == "the peer"


def most_accepted_in_a_turn(listeners_of) -> int:
    """Connect sixty clients before the event loop starts; return the most accepted in a turn."""
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
    """The test uses a separate event loop, like a worker."""
    most = [
        await asyncio.to_thread(most_accepted_in_a_turn, listeners_of)
        for listeners_of in (lambda listener: [listener], accepting)
    ]
    assert most[0] == 1  # if this grows, `accepting` is not needed any more
    assert most[1] >= 8


def test_a_blocking_listener_is_refused():
    """A blocking socket in one process would make all others wait in `accept`."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ValueError, match="blocking"),
    ):
        accepting(listener)
