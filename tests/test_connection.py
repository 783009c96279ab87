"""An answer's head and body leave together, and before the connection is closed."""

import asyncio

from service.connection import CorkedTransport


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
