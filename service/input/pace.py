"""Divides long work into short slices, so that other tasks wait for one slice at most."""

import asyncio
import time

SLICE_SECONDS = 0.001


class Pace:
    """The pace of one piece of work; its first slice begins with the object."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def rest(self) -> None:
        """Let other tasks run if the slice has ended. Call it between two steps of the work."""
        if time.monotonic() - self._began >= SLICE_SECONDS:
            await asyncio.sleep(0)
            self._began = time.monotonic()
