"""TLS under HTTP, with the bounds of plain HTTP: on connections, and on the time to wait for each.

`loop.create_server(ssl=…)` shows a connection to the worker only when its handshake is complete.
Clients that begin no handshake would be in no bound, and would use up all descriptors. So a
`TlsConnection` is the worker's from the moment at which it was accepted.
"""

import asyncio
import copy
import ssl
from typing import Any

from uvloop.loop import SSLProtocol  # type: ignore[attr-defined] # not in uvloop's types

from service import metrics
from service.domain.errors import InvalidRequest, ServiceError
from service.ops import protocol
from service.ops.address_limit import Place
from service.ops.open_connections import OpenConnections
from service.ops.protocol import BoundedProtocol

HSTS = ("strict-transport-security", "max-age=31536000")
"""Tells browsers to use only TLS for this host; it must not be sent over plain HTTP (RFC 6797)."""
PLAIN_HTTP = range(ord("A"), ord("Z") + 1)  # the first byte of a method; a handshake begins with 22


class TlsConnection(asyncio.Protocol):
    """A client's connection until its handshake is complete; it is an `OpenConnection`."""

    is_answering = False

    def __init__(
        self, context: ssl.SSLContext, connections: OpenConnections, **uvicorn: Any
    ) -> None:
        self.context = context
        self.loop = asyncio.get_running_loop()
        self.idle_since = self.loop.time()
        self.deadline = self.idle_since + protocol.HEAD_SECONDS_MAX
        self.worker_connections = connections
        self.uvicorn = uvicorn
        self.place: Place | None = None
        self._open = uvicorn["server_state"].connections

    # From the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first bytes, unless the worker has no room for the connection."""
        self.transport = transport
        self._open.add(self)
        self.place = self.worker_connections.enter(transport)
        self.worker_connections.admit(self)
        if self.place is not None and self.place.is_far_beyond:
            self.close()  # a handshake for each answer would cost too much

    def data_received(self, data: bytes) -> None:
        """Begin the handshake with its first bytes."""
        if data[0] in PLAIN_HTTP:
            self._answer_plainly()
            return
        encryption = _Encryption(self)
        self.transport.set_protocol(encryption)
        encryption.connection_made(self.transport)
        encryption.get_buffer(len(data))[: len(data)] = data
        encryption.buffer_updated(len(data))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - any end is the same
        """Count a connection that ends too early."""
        self.worker_connections.leave(self._take_place())
        if self in self._open:
            self._open.discard(self)
            metrics.HANDSHAKES_FAILED.inc()

    # From the worker

    def shutdown(self) -> None:
        """Serve one request if the handshake ends very soon, else close."""
        soon = self.loop.time() + self.worker_connections.keep_alive_seconds
        self.deadline = min(self.deadline, soon)

    def expire(self) -> None:
        """Give up on a client that missed the deadline."""
        self.close()

    def refuse(self, error: ServiceError) -> None:  # noqa: ARG002 - nothing can be sent yet
        """Close without an answer: a handshake for each refusal would cost more than an answer."""
        self.close()

    def close(self) -> None:
        """Close without waiting for the client."""
        self.transport.abort()

    # From the layers above

    def hand_over(self, encrypted: asyncio.Transport) -> None:
        """Let HTTP be served: the handshake is complete."""
        self._open.discard(self)
        served = EncryptedProtocol(self, self.worker_connections, **self.uvicorn)
        served.place = self._take_place()
        encrypted.set_protocol(served)
        served.connection_made(encrypted)

    def _take_place(self) -> Place | None:
        """Return the place of the connection, for which another object is responsible now."""
        place, self.place = self.place, None
        return place

    def _answer_plainly(self) -> None:
        """Tell a client of plain HTTP that this port is for TLS."""
        self._open.discard(self)
        state = self.uvicorn["server_state"]
        plain_state = copy.copy(state)
        plain_state.default_headers = [
            header for header in state.default_headers if header[0] != HSTS[0].encode()
        ]
        uvicorn = {**self.uvicorn, "server_state": plain_state}
        plain = BoundedProtocol(self.worker_connections, **uvicorn)
        plain.place = self._take_place()
        self.transport.set_protocol(plain)
        plain.connection_made(self.transport)
        if not self.transport.is_closing():
            message = "is plain HTTP, but this port is for TLS: use https:// in the address"
            plain.reject(InvalidRequest.at("request", message))


class _Encryption(SSLProtocol):  # type: ignore[misc] # uvloop's types lack it
    """uvloop's TLS between the transport and HTTP. uvloop calls no other override than these."""

    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection
        super().__init__(
            connection.loop,
            _Handshake(connection),
            connection.context,
            None,
            server_side=True,
            ssl_handshake_timeout=protocol.HEAD_SECONDS_MAX,
            ssl_shutdown_timeout=protocol.DISCARD_SECONDS_MAX,
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection above, or the one that is still in its handshake."""
        self._connection.connection_lost(exc)
        super().connection_lost(exc)


class _Handshake(asyncio.Protocol):
    """Stands above the encryption until the handshake is complete.

    A `BoundedProtocol` is made no sooner, so that a handshake costs little if it fails.
    """

    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let HTTP be served."""
        self._connection.hand_over(transport)


class EncryptedProtocol(BoundedProtocol):
    """`BoundedProtocol` over TLS."""

    def __init__(
        self, beneath: TlsConnection, connections: OpenConnections, **uvicorn: Any
    ) -> None:
        super().__init__(connections, **uvicorn)
        self._beneath = beneath

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve; the time for the first byte began when the connection was accepted."""
        super().connection_made(transport)
        self.deadline = min(self.deadline, self._beneath.deadline)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio wants one, uvicorn has none
        """Refuse a request that was cut off. TLS ends both directions, so nothing stays open."""
        super().eof_received()
        return False

    def close(self) -> None:
        """Send all written bytes and the end of the encryption, then close.

        `transport.close()` alone waits until the client ends the encryption too, for as long as
        `DISCARD_SECONDS_MAX`. Clients do not notice while the connection is idle in a pool.
        """
        super().close()
        self._beneath.transport.close()
