"""The gate before the pool: admits a limited number of callers, in order, and fewer readers."""

import asyncio
import itertools
from collections import deque


class Gate:
    """Admits callers in the order of their arrival, up to a limit.

    Readers may use half of the limit at most, so that they can't keep the others out.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._inside = {False: 0, True: 0}
        """The number of callers inside: under True the readers, under False the others."""
        self._queues: dict[bool, deque[tuple[int, asyncio.Future[None]]]] = {
            False: deque(),
            True: deque(),
        }
        self._numbers = itertools.count()

    @property
    def room(self) -> int:
        """The limit of callers inside at the same time."""
        return self._room

    @room.setter
    def room(self, room: int) -> None:
        self._room = room
        self._admit()

    @property
    def is_full(self) -> bool:
        """True when no caller can be admitted before another one leaves."""
        return sum(self._inside.values()) >= self._room

    @property
    def has_queue(self) -> bool:
        """True when a caller waits and can enter as soon as another one leaves."""
        return self._next_is_reader() is not None

    async def enter(self, *, is_reader: bool, seconds_max: float) -> None:
        """Return when the caller is inside. Raises `TimeoutError`."""
        admission = asyncio.get_running_loop().create_future()
        self._queues[is_reader].append((next(self._numbers), admission))
        self._admit()
        if admission.done():
            return
        try:
            async with asyncio.timeout(seconds_max):
                await admission
        except BaseException:
            if not admission.cancel() and not admission.cancelled():  # admitted at the last moment
                self.leave(is_reader=is_reader)
            raise

    def leave(self, *, is_reader: bool) -> None:
        """Make room for the next caller."""
        self._inside[is_reader] -= 1
        self._admit()

    def _admit(self) -> None:
        while not self.is_full and (is_reader := self._next_is_reader()) is not None:
            _, admission = self._queues[is_reader].popleft()
            self._inside[is_reader] += 1
            admission.set_result(None)

    def _next_is_reader(self) -> bool | None:
        """Return whether the next caller to be admitted is a reader; None when none can enter."""
        first: dict[bool, int] = {}
        for is_reader, queue in self._queues.items():
            while queue and queue[0][1].done():  # given up
                queue.popleft()
            if queue and not (is_reader and self._inside[True] >= max(1, self._room // 2)):
                first[is_reader] = queue[0][0]
        return min(first, key=lambda is_reader: first[is_reader], default=None)
