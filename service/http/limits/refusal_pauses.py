"""Pauses before refusals: a source that goes on after a refusal waits for its next ones.

A client that is refused at once asks again at once, and a thousand refusals a second take a quarter
of a worker from all other sources.
"""

import asyncio
import random
import time

AT_ONCE_MAX = 20
"""Refusals of a source in a second that are sent without a pause."""
PAUSE_SECONDS = 0.5  # less than the second that Retry-After asks for at least
PAUSED_MAX = 256
"""Requests of a source that wait for their refusal; further ones are refused at once."""
SOURCES_MAX = 10_000
"""Sources whose refusals are counted in a second; others are refused at once."""


class RefusalPauses:
    """The refusals of each source in the present second, and those that are waiting."""

    def __init__(self) -> None:
        self._second = 0
        self._refused: dict[str, int] = {}
        self._paused: dict[str, int] = {}

    async def pause(self, source: str) -> None:
        """Wait before a refusal, if the source has had many in this second."""
        if not self._is_due(source):
            return
        self._paused[source] = self._paused.get(source, 0) + 1
        try:
            await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        finally:
            self._paused[source] -= 1
            if not self._paused[source]:
                del self._paused[source]

    def _is_due(self, source: str) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._refused.clear()
        count = self._refused.get(source, 0)
        if count == 0 and len(self._refused) >= SOURCES_MAX:
            return False
        self._refused[source] = count + 1
        return count >= AT_ONCE_MAX and self._paused.get(source, 0) < PAUSED_MAX
