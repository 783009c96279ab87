"""How much of a worker large bodies may take: memory in all and for a key, and time.

A client that sends many large bodies but for their last byte would otherwise have them all kept. A
body waits unread until there is room, so that its client waits in TCP. And a key whose body took
long to look into has no room for some time: who sends one such body after the other waits alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.domain.errors import Overloaded

SMALL = 64 * 1024
"""Bytes of a body that needs no room: as much is read before anybody asks for it."""
BYTES_MAX = 32 * 1024 * 1024
BYTES_OF_A_KEY_MAX = 8 * 1024 * 1024
"""Two of the largest bodies: more of one key at once gain it nothing."""
WAIT_SECONDS_MAX = 5.0
RESTS = 10
"""How many times as long as a body was looked into its key has no room for another.

Good bodies are not held up by this: to carry one out takes longer still.
"""
REST_SECONDS_MAX = 1.0


class Place:
    """A body's place in the room."""

    looked_into_at: float | None = None
    """When its bytes were all there (monotonic seconds)."""


class BodyRoom:
    """The room for large bodies in a worker."""

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}
        self._resting: dict[bytes, float] = {}
        self._has_changed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, key: bytes, size: int) -> AsyncIterator[Place]:
        """Hold room for a body of a key. Raises `Overloaded` when there is none in time."""
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                while not self._has_room(key, size):
                    await self._has_changed.wait()
        except TimeoutError:
            raise Overloaded("Too many large bodies are under way.") from None
        self._taken[key] = self._taken.get(key, 0) + size
        place = Place()
        try:
            yield place
        finally:
            self._taken[key] -= size
            if not self._taken[key]:
                del self._taken[key]
            if place.looked_into_at is not None:
                self._rest(key, RESTS * (time.monotonic() - place.looked_into_at))
            self._wake()

    def _has_room(self, key: bytes, size: int) -> bool:
        return (
            key not in self._resting
            and self._taken.get(key, 0) + size <= BYTES_OF_A_KEY_MAX
            and sum(self._taken.values()) + size <= BYTES_MAX
        )

    def _rest(self, key: bytes, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = max(self._resting.get(key, 0.0), loop.time()) + seconds
        until = min(until, loop.time() + REST_SECONDS_MAX)
        self._resting[key] = until
        loop.call_at(until, self._end_rest, key, until)

    def _end_rest(self, key: bytes, until: float) -> None:
        if self._resting.get(key) == until:  # otherwise there was another body meanwhile
            del self._resting[key]
            self._wake()

    def _wake(self) -> None:
        self._has_changed.set()
        self._has_changed = asyncio.Event()
