"""Sends requests as raw bytes, which client libraries do not allow, and reads the answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.server import Server

SECONDS_MAX = 20.0  # for an answer; only a hang takes so long


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it was received."""

    status: int
    headers: dict[str, str]
    body: bytes
    head: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *packets: bytes) -> None:
        """Send each packet in its own TCP segment."""
        with suppress(ConnectionError):
            for packet in packets:
                self.writer.write(packet)
                await self.writer.drain()
                await asyncio.sleep(0.02)

    def finish(self) -> None:
        """Close the sending side; reading is still possible."""
        self.writer.write_eof()

    async def answer(self, *, to: str = "GET") -> RawAnswer | None:
        """The next answer; None when the server has closed the connection."""
        async with asyncio.timeout(SECONDS_MAX):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as cut:
                if cut.partial:
                    raise
                return None
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            headers = {
                name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
            }
            length = 0 if to == "HEAD" else int(headers.get("content-length", 0))
            body = await self.reader.readexactly(length)
            return RawAnswer(int(first.split()[1]), headers, body, head)

    async def answers(self) -> list[RawAnswer]:
        """All answers until the server closes the connection."""
        found = []
        while (answer := await self.answer()) is not None:
            found.append(answer)
        return found


@asynccontextmanager
async def dial(server: Server) -> AsyncIterator[Wire]:
    """A connection, closed at the end of the block."""
    host, port = server.url.split("://")[1].split(":")
    wire = Wire(*await asyncio.open_connection(host, int(port), ssl=server.trusted))
    try:
        yield wire
    finally:
        wire.writer.close()
        with suppress(ConnectionError):
            await wire.writer.wait_closed()


async def exchange(server: Server, *packets: bytes, finishes: bool = False) -> RawAnswer:
    """Send packets on a new connection and return the first answer."""
    async with dial(server) as wire:
        await wire.send(*packets)
        if finishes:
            wire.finish()
        answer = await wire.answer()
        assert answer is not None, "the connection was closed without an answer"
        return answer


def head_of(
    server: Server, method: str, path: str, *lines: str, length: int | None = None
) -> bytes:
    """A request's head, with Host and the admin key."""
    given = [f"{method} {path} HTTP/1.1", "Host: holdfast", f"Authorization: Bearer {server.key}"]
    if length is not None:
        given += ["Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*given, *lines, "", ""]).encode("latin-1")


def post(server: Server, path: str, body: Any, *lines: str) -> tuple[bytes, bytes]:
    """The head and the body of a POST of JSON."""
    content = json.dumps(body).encode()
    return head_of(server, "POST", path, *lines, length=len(content)), content
