"""A transport that sends an answer in one piece.

Uvicorn writes an answer's head, then its body, and uvloop hands each of them to the kernel at once.
That makes two packets, which wake the client twice and cost a third of a small request
(docs/decisions.md, 17).
"""

import asyncio
from typing import Any


class CorkedTransport:
    """A transport that sends all writes of one turn of the event loop together."""

    __slots__ = ("_collected", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._collected: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Pass everything else to the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send these bytes together with the other writes of this turn."""
        if not self._collected:
            self._loop.call_soon(self._send)
        self._collected.append(data)

    def write_eof(self) -> None:
        """Send all written bytes, then tell the client that no more will follow."""
        self._send()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Send all written bytes, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        collected, self._collected = self._collected, []
        if collected and not self._transport.is_closing():
            self._transport.write(b"".join(collected))
