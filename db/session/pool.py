"""The pool: keeps connections, as many as the server grants.

A connection that died in the meantime is replaced when it is needed. After the server has refused a
connection, the pool requests none for a while, and callers wait for the existing connections.
"""

import asyncio
import random
import time

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.session.configuration import Timeouts
from db.session.engine import driver_of
from db.session.failures import FAILURES, StoreUnavailable, sqlstate
from db.session.gate import Gate
from db.session.transaction import discard

TOO_MANY = "53300"  # too many connections of the server, of the database or of the role
GROW_SECONDS = 5.0  # between a refusal and the next request for a connection
REFUSED_SECONDS = 0.1  # on average, between two attempts while there is no connection at all


class Pool:
    """An engine's connections for reuse. The last one used comes first, so that a few stay warm."""

    def __init__(self, engine: AsyncEngine, size: int, timeouts: Timeouts) -> None:
        self._engine = engine
        self._size = size
        self._timeouts = timeouts
        self._gate = Gate(size)
        self._idle: list[AsyncConnection] = []
        self._open = 0
        """The number of connections, idle or in use."""
        self._trusted_since = 0.0
        """Connections that were opened earlier may lead to a hanging server or to a standby."""
        self._grow_at = 0.0
        self._is_closed = False

    @property
    def size(self) -> int:
        """The number of connections that may be in use at the same time; a refusal lowers it."""
        return self._gate.room

    @property
    def in_use(self) -> int:
        """The number of connections in use."""
        return self._open - len(self._idle)

    @property
    def has_queue(self) -> bool:
        """True when a caller waits for a connection that is in use."""
        return self._gate.has_queue

    async def take(self, *, is_read: bool = False) -> AsyncConnection:
        """Return a kept or a new connection, which the caller must give back or drop.

        Raises `StoreUnavailable` when none is free in time, and `FAILURES` of connecting.
        """
        while True:
            await self._enter(is_read)
            connection = None
            try:
                connection = await self._find_unless_refused()
            finally:
                if connection is None:
                    self._gate.leave(is_reader=is_read)
            if connection is not None:
                return connection

    async def give_back(self, connection: AsyncConnection, *, is_read: bool = False) -> None:
        """Keep a connection on which no transaction is open."""
        if self._is_closed:
            await self.drop(connection, is_read=is_read)
            return
        driver_of(connection).used_at = time.monotonic()
        self._idle.append(connection)
        self._gate.leave(is_reader=is_read)

    async def drop(self, connection: AsyncConnection, *, is_read: bool = False) -> None:
        """Discard a connection whose state is unknown."""
        try:
            await self._discard(connection)
        finally:
            self._gate.leave(is_reader=is_read)

    def distrust(self) -> None:
        """Never again use a connection that was opened before now."""
        self._trusted_since = time.monotonic()

    def trusts(self, connection: AsyncConnection) -> bool:
        """False when a connection has died or should not be used again."""
        if connection.invalidated:
            return False
        driver = driver_of(connection)
        return not driver.is_closed() and driver.made_at >= self._trusted_since

    async def close(self) -> None:
        """Close every connection; those in use are closed when they are given back."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(self._discard, idle))
        await self._engine.dispose()

    async def _enter(self, is_read: bool) -> None:
        """Pass the gate; wait longer where the server grants fewer connections than requested."""
        for seconds_max in (self._timeouts.pool, self._timeouts.connect):
            self._grow()
            try:
                await self._gate.enter(is_reader=is_read, seconds_max=seconds_max)
            except TimeoutError as error:
                if self._gate.room == self._size:
                    raise StoreUnavailable("no database connection was free in time") from error
            else:
                return
        raise StoreUnavailable("the database grants too few connections")

    def _grow(self) -> None:
        """From time to time, allow a full pool one more connection than the server granted."""
        is_reduced = self._gate.room < self._size
        if self._gate.is_full and is_reduced and time.monotonic() >= self._grow_at:
            self._gate.room += 1

    async def _find_unless_refused(self) -> AsyncConnection | None:
        """Return a connection, or None if the server refuses a new one.

        After a refusal the existing connections have to suffice. If there are none at all, one
        caller at a time requests one, after a pause.
        """
        try:
            return await self._find()
        except FAILURES as error:
            if sqlstate(error) != TOO_MANY:
                raise
        self._gate.room = max(1, self._open)
        self._grow_at = time.monotonic() + GROW_SECONDS
        if not self._open:
            await asyncio.sleep(REFUSED_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        return None

    async def _find(self) -> AsyncConnection:
        while self._idle:
            connection = self._idle.pop()
            if self.trusts(connection):
                return connection
            await self._discard(connection, cancel_seconds=0)  # no statement is running
        connection = await self._engine.connect()
        self._open += 1
        # The room is too small if another connection was refused in the meantime.
        self._gate.room = max(self._gate.room, self._open)
        return connection

    async def _discard(self, connection: AsyncConnection, **more: float) -> None:
        self._open -= 1
        await discard(connection, **more)
