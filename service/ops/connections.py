"""All connections of a worker: how many there may be, how long each may wait, and how they end."""

import asyncio
import math
import resource
from typing import Any

from service.domain.errors import Overloaded
from service.ops.protocol import KEEP_ALIVE_SECONDS, Connection

CHECK_SECONDS = 0.25  # how late a deadline may be noticed
DRAINING_KEEP_ALIVE_SECONDS = 1.0  # a client that is busy sends its next request sooner than that
DESCRIPTORS_KEPT = 64  # for listeners, lock servers, the log, and those just being accepted
CONNECTIONS_MAX = 10_000  # about 200 MB, if all of them are in use
EVICTED_SHARE = 20  # one in so many is closed at once, so that the search is worth its while


class Connections:
    """The connections of a worker."""

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        """Beyond it the connection that has been idle longest is closed."""
        self.is_draining = False
        self.open: set[Any] = set()
        """Every `Connection` that is open; uvicorn keeps it."""

    @property
    def keep_alive_seconds(self) -> float:
        """How long a connection may be idle."""
        return DRAINING_KEEP_ALIVE_SECONDS if self.is_draining else KEEP_ALIVE_SECONDS

    def make(self, **uvicorn: Any) -> Connection:
        """Return a new connection: what uvicorn calls for each client."""
        return Connection(self, **uvicorn)

    def watch(self, connections: set[Any]) -> None:
        """Look after these connections, as long as the event loop runs."""
        self.open = connections
        self._check()

    def admit(self, connection: Connection) -> None:
        """Make room for a new connection, or refuse it if all others are in use."""
        if self.is_draining:
            connection.shutdown()
        if len(self.open) > self.connections_max and not self._evict(connection):
            connection.refuse(Overloaded("All connections of this server are in use."))

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

    def _evict(self, newest: Connection) -> bool:
        """Close those that have been idle longest; False when there are none."""
        idle = [
            each
            for each in self.open
            if each is not newest and not each.is_answering and not each.transport.is_closing()
        ]
        idle.sort(key=lambda each: each.idle_since)
        evicted = idle[: max(1, self.connections_max // EVICTED_SHARE)]
        for connection in evicted:
            connection.transport.close()
        return bool(evicted)


def connections_max(pool_size: int) -> int:
    """Return how many connections there are descriptors for, beside those the worker needs itself.

    The soft limit is raised to what the hard limit allows, as far as that is of use.
    """
    kept = DESCRIPTORS_KEPT + pool_size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + kept
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed - kept, 1)
