"""The room for large bodies in a worker: memory for all keys, memory for one key, and time.

Without a limit a client could send many large bodies except for their last byte and have all of
them kept in memory. So a large body stays unread until there is room for it, and its client waits
in TCP. A key whose body took long to process gets no room for some time afterwards. A client that
sends one such body after another therefore delays only itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.domain.errors import Overloaded

SMALL = 64 * 1024
"""A body of at most so many bytes needs no room: the server reads that much in advance anyway."""
BYTES_MAX = 32 * 1024 * 1024
BYTES_OF_A_KEY_MAX = 8 * 1024 * 1024
"""Two of the largest bodies: a key gains nothing from sending more of them at once."""
WAIT_SECONDS_MAX = 5.0
REST_FACTOR = 10
"""A key rests this many times as long as its body took to process.

The rest delays no client whose bodies are valid: it takes longer to carry out their commands.
"""
REST_SECONDS_MAX = 1.0


class Share:
    """The part of the room that one body holds."""

    arrived_at: float | None = None
    """When the last byte of the body arrived (monotonic seconds)."""


class BodyRoom:
    """The room for large bodies in a worker."""

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}
        self._resting: dict[bytes, float] = {}
        self._has_changed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, key: bytes, size: int) -> AsyncIterator[Share]:
        """Hold room for a body of a key. Raises `Overloaded` when there is none in time."""
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                while not self._has_room(key, size):
                    await self._has_changed.wait()
        except TimeoutError:
            raise Overloaded("Too many large bodies are being processed.") from None
        self._taken[key] = self._taken.get(key, 0) + size
        share = Share()
        try:
            yield share
        finally:
            self._taken[key] -= size
            if not self._taken[key]:
                del self._taken[key]
            if share.arrived_at is not None:
                self._rest(key, REST_FACTOR * (time.monotonic() - share.arrived_at))
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
        if self._resting.get(key) == until:  # a later body may have made the rest longer
            del self._resting[key]
            self._wake()

    def _wake(self) -> None:
        self._has_changed.set()
        self._has_changed = asyncio.Event()
