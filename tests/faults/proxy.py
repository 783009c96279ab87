"""A TCP proxy before PostgreSQL that loses a connection at COMMIT or after a number of bytes."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

COMMIT = re.compile(rb"COMMIT(?: AND CHAIN)?\0")


@dataclass
class Fault:
    """The fault of the next connection that reaches a point; it happens once and is counted."""

    action: str
    """`cut`: the proxy closes both sides; `stall`: nothing passes and nothing is closed; `swallow`:
    the server gets everything, but its answer is lost with the connection."""
    at: re.Pattern[bytes] | None = None
    """The point: before data that contains this; if empty, after `after` bytes from the client."""
    after: int = 0

    def place(self, data: bytes) -> int | None:
        """The offset in the data at which the fault happens, or None."""
        if self.at:
            return 0 if self.at.search(data) else None
        self.after -= len(data)
        return None if self.after >= 0 else len(data) + self.after


class Proxy:
    """Forwards all data until the connection reaches the point of `fault`."""

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url)
        self.url = url
        self.fault: Fault | None = None
        self.struck = 0
        """The number of faults that have happened."""
        self.refuses = False
        """True to accept no more connections."""
        self.passed = 0
        """The number of bytes received from clients."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        port = self.target.port or 5432
        server_reader, server_writer = await asyncio.open_connection(self.target.hostname, port)
        muted = asyncio.Event()
        back = asyncio.create_task(self._pass_back(server_reader, writer, muted))
        self._tasks.add(back)
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.passed += len(data)
                place = self.fault.place(data) if self.fault else None
                if place is not None:
                    muted.set()
                    await self._strike(data, place, reader, server_writer, back)
                    break
                server_writer.write(data)
                await server_writer.drain()
        writer.transport.abort()
        server_writer.close()

    async def _strike(
        self,
        data: bytes,
        place: int,
        reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        assert self.fault is not None
        action, self.fault = self.fault.action, None
        self.struck += 1
        server_writer.write(data if action == "swallow" else data[:place])
        await server_writer.drain()
        if action == "swallow":
            await back
        elif action == "stall":
            await reader.read(-1)

    async def _pass_back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if muted.is_set():
                    return
                writer.write(data)
                await writer.drain()
        if not muted.is_set():
            writer.close()


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server at that address; `.url` is the address of the proxy."""
    made = Proxy(url)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = made.target
    credentials = parts.netloc.rpartition("@")[0]
    made.url = parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
    try:
        yield made
    finally:
        server.close()
