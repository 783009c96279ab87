"""How much of the memory of a worker large bodies may take: in all, and those of one key.

A client that sends many large bodies but for their last byte would otherwise have them all kept. A
body waits unread until there is room, so that its client waits in TCP.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import Overloaded

SMALL = 64 * 1024
"""Bytes of a body that needs no room: as much is read before anybody asks for it."""
BYTES_MAX = 32 * 1024 * 1024
BYTES_OF_A_KEY_MAX = 8 * 1024 * 1024
"""Two of the largest bodies: more of one key at once gain it nothing."""
WAIT_SECONDS_MAX = 5.0


class BodyRoom:
    """The room for large bodies in a worker."""

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}
        self._has_changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, key: bytes, size: int) -> AsyncIterator[None]:
        """Hold room for a body of a key. Raises `Overloaded` when there is none in time."""
        async with self._has_changed:
            try:
                async with asyncio.timeout(WAIT_SECONDS_MAX):
                    await self._has_changed.wait_for(lambda: self._has_room(key, size))
            except TimeoutError:
                raise Overloaded("Too many large bodies are under way.") from None
            self._taken[key] = self._taken.get(key, 0) + size
        try:
            yield
        finally:
            async with self._has_changed:
                self._taken[key] -= size
                if not self._taken[key]:
                    del self._taken[key]
                self._has_changed.notify_all()

    def _has_room(self, key: bytes, size: int) -> bool:
        return (
            self._taken.get(key, 0) + size <= BYTES_OF_A_KEY_MAX
            and sum(self._taken.values()) + size <= BYTES_MAX
        )
