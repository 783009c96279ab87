"""HTTP/1.1 as uvicorn speaks it, but each answer leaves in one piece.

Uvicorn writes an answer's head, then its body, and uvloop hands each to the kernel at once: two
packets, which wake the client twice. Together they cost a third of a small request
(docs/decisions.md, 17).
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CorkedTransport:
    """A transport that sends what is written in one turn of the event loop as a whole."""

    __slots__ = ("_collected", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._collected: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Be the transport in everything else."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this with whatever else is written in this turn."""
        if not self._collected:
            self._loop.call_soon(self._send)
        self._collected.append(data)

    def close(self) -> None:
        """Send what was written, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        collected, self._collected = self._collected, []
        if collected and not self._transport.is_closing():
            self._transport.write(b"".join(collected))


class Connection(HttpToolsProtocol):
    """A client's connection whose transport is corked."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve it. asyncio hands over any transport; TCP's is what uvicorn expects."""
        corked: Any = CorkedTransport(transport, self.loop)
        super().connection_made(corked)
