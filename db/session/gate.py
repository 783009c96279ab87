"""The gate before the pool: as many as there is room for, in order, and readers only to a part."""

import asyncio
import itertools
from collections import deque


class Gate:
    """Admits callers in the order in which they came, as far as there is room.

    Readers may take half of the room at most, so that the others always find some.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._inside = {False: 0, True: 0}
        """How many are inside, by whether they are readers."""
        self._queues: dict[bool, deque[tuple[int, asyncio.Future[None]]]] = {
            False: deque(),
            True: deque(),
        }
        self._numbers = itertools.count()

    @property
    def room(self) -> int:
        """How many may be inside at once."""
        return self._room

    @room.setter
    def room(self, room: int) -> None:
        self._room = room
        self._admit()

    @property
    def is_full(self) -> bool:
        """True when nobody else can be admitted before somebody leaves."""
        return sum(self._inside.values()) >= self._room

    @property
    def has_queue(self) -> bool:
        """True when the next place that becomes free has a caller that waits for it."""
        return self._next_is_reader() is not None

    async def enter(self, *, is_reader: bool, seconds_max: float) -> None:
        """Return when inside. Raises `TimeoutError`."""
        place = asyncio.get_running_loop().create_future()
        self._queues[is_reader].append((next(self._numbers), place))
        self._admit()
        if place.done():
            return
        try:
            async with asyncio.timeout(seconds_max):
                await place
        except BaseException:
            if not place.cancel() and not place.cancelled():  # admitted at the very last moment
                self.leave(is_reader=is_reader)
            raise

    def leave(self, *, is_reader: bool) -> None:
        """Make room for the next."""
        self._inside[is_reader] -= 1
        self._admit()

    def _admit(self) -> None:
        while not self.is_full and (is_reader := self._next_is_reader()) is not None:
            _, place = self._queues[is_reader].popleft()
            self._inside[is_reader] += 1
            place.set_result(None)

    def _next_is_reader(self) -> bool | None:
        """Whether the next to be admitted is a reader; None when there is none."""
        first: dict[bool, int] = {}
        for is_reader, queue in self._queues.items():
            while queue and queue[0][1].done():  # given up
                queue.popleft()
            if queue and not (is_reader and self._inside[True] >= max(1, self._room // 2)):
                first[is_reader] = queue[0][0]
        return min(first, key=lambda is_reader: first[is_reader], default=None)
