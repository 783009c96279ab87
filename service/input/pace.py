"""Long work in short slices, so that all else in the event loop waits for a slice at most."""

import asyncio
import time

SLICE_SECONDS = 0.001


class Pace:
    """Work that rests now and then; it begins with a slice of its own."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def rest(self) -> None:
        """Let others work, if the slice is over. Call it between two steps of the work."""
        if time.monotonic() - self._began >= SLICE_SECONDS:
            await asyncio.sleep(0)
            self._began = time.monotonic()
