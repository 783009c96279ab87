"""The open connections of a worker: their number, their deadlines and how they end."""

import asyncio
import math
import resource
from typing import Any, Protocol

from service.domain.errors import Overloaded, ServiceError
from service.ops.address_limit import AddressLimit, Place

CHECK_SECONDS = 0.25  # a passed deadline is noticed at most this late
KEEP_ALIVE_SECONDS = 75.0  # longer than proxies keep idle connections: the proxy must close first
DRAINING_KEEP_ALIVE_SECONDS = 1.0  # a busy client sends its next request sooner than that
DESCRIPTORS_RESERVED = 64  # for listeners, lock servers, the log and connections just accepted
CONNECTIONS_MAX = 10_000  # about 200 MB, if all of them are in use
EVICTED_SHARE = 20  # one search closes up to one connection in 20, because a search is slow


class OpenConnection(Protocol):
    """The parts of a client's connection that its worker uses."""

    deadline: float
    """The moment at which the worker stops waiting for the client, in the loop's time."""
    idle_since: float
    transport: asyncio.Transport

    @property
    def is_answering(self) -> bool:
        """True while a request has no complete answer yet."""

    def shutdown(self) -> None:
        """Answer the requests that were sent, then close."""

    def expire(self) -> None:
        """Give up on a client that missed the deadline."""

    def refuse(self, error: ServiceError) -> None:
        """Answer with an error and close at once."""

    def close(self) -> None:
        """Close without waiting for the client."""


class OpenConnections:
    """Limits the connections of a worker, enforces their deadlines and drains them."""

    def __init__(self, connections_max: int, addresses: AddressLimit | None = None) -> None:
        self.addresses = addresses
        """The limit on the connections of one address, if there is one."""
        self.connections_max = connections_max
        """Beyond this number, the connection that has been idle longest is closed."""
        self.is_draining = False
        self.open: set[Any] = set()
        """Every `OpenConnection`; uvicorn adds and removes them."""

    @property
    def keep_alive_seconds(self) -> float:
        """The time that a connection may be idle."""
        return DRAINING_KEEP_ALIVE_SECONDS if self.is_draining else KEEP_ALIVE_SECONDS

    def watch(self, connections: set[Any]) -> None:
        """Enforce the deadlines of these connections for as long as the event loop runs."""
        self.open = connections
        self._check()

    def admit(self, connection: OpenConnection) -> None:
        """Make room for a new connection, or refuse it if all others are in use."""
        if self.is_draining:
            connection.shutdown()
        if len(self.open) > self.connections_max and not self._evict(connection):
            connection.refuse(Overloaded("All connections of this server are in use."))

    def enter(self, transport: asyncio.Transport) -> Place | None:
        """Count a connection for its address, if connections are counted."""
        if self.addresses is None:
            return None
        peer = transport.get_extra_info("peername")
        return self.addresses.enter(peer[0] if peer else "")

    def leave(self, place: Place | None) -> None:
        """Count a connection no longer."""
        if self.addresses is not None and place is not None:
            self.addresses.leave(place)

    def drain(self) -> None:
        """From now on close each connection after its answer, or when it is idle."""
        self.is_draining = True

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [each for each in self.open if each.deadline <= now]:
            connection.deadline = math.inf
            connection.expire()
        loop.call_later(CHECK_SECONDS, self._check)

    def _evict(self, newest: OpenConnection) -> bool:
        """Close the connections that have been idle longest; False when none is idle."""
        idle = [
            each
            for each in self.open
            if each is not newest and not each.is_answering and not each.transport.is_closing()
        ]
        idle.sort(key=lambda each: each.idle_since)
        evicted = idle[: max(1, self.connections_max // EVICTED_SHARE)]
        for connection in evicted:
            connection.close()
        return bool(evicted)


def connections_max(pool_size: int) -> int:
    """Return the number of clients' connections that the worker has file descriptors for.

    Raises the soft limit on descriptors as far as the hard limit allows and the worker needs.
    """
    reserved = DESCRIPTORS_RESERVED + pool_size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + reserved
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed - reserved, 1)
