"""A TCP proxy before PostgreSQL that loses a COMMIT, or the answer to one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes everything on, until it is told to lose something; that once, and never silently."""

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url)
        self.url = url
        self.loses: str | None = None
        """`commit`: the next COMMIT is not passed on; `answer`: it is, but its answer is not."""
        self.refuses = False
        """Accept no connection any more."""
        self.lost = 0
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
                if self.loses and b"COMMIT" in data:
                    self.lost += 1
                    lost, self.loses = self.loses, None
                    if lost == "commit":
                        break
                    muted.set()
                server_writer.write(data)
                await server_writer.drain()
                if muted.is_set():
                    await back
                    break
        writer.transport.abort()
        server_writer.close()

    async def _pass_back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if muted.is_set():
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server at that address; `.url` leads through it."""
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
