"""The queue before the lanes: first come, first served, but a crowd keeps nobody else waiting.

A job that names a stock row for which many commands wait already joins the crowd. The others go
first; of each batch the crowd gets what they leave, a quarter at least, and when the queue is three
quarters full it is refused. So a flood for one SKU costs the buyers of the rest next to nothing.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from db.rows import Key
from service.domain.commands import Command, Outcome, Reserve, names_of
from service.domain.errors import Overloaded

BATCH_SHARE = 4  # of a batch one in four at least is for the crowd: it must get on, too
QUEUE_SHARE = 4  # of the queue one in four is for those who are not of the crowd


@dataclass(slots=True, eq=False)
class Job:
    """The commands of one request and the future of their outcomes."""

    commands: Sequence[Command[Any]]
    outcomes: asyncio.Future[list[Outcome[Any]]]
    queued_at: float
    weight: int
    give_up_at: float
    may_be_shed: bool = True

    def names(self) -> set[Any]:
        """Return the ids and stock keys that the commands name."""
        return set().union(*(names_of(command) for command in self.commands))

    def stock_keys(self) -> Iterator[Key]:
        """Return the stock rows it takes from."""
        for command in self.commands:
            if type(command) is Reserve:
                for line in command.lines:
                    yield line.sku, line.location


class Queue:
    """Jobs that wait for a lane, bounded in commands."""

    def __init__(self, commands_max: int, crowd_min: int) -> None:
        self.commands_max = commands_max
        self.crowd_min = crowd_min
        """Commands that wait for a stock row before whoever comes next joins the crowd."""
        self.commands = 0
        """Commands that wait, those of large jobs included, which wait elsewhere."""
        self._calm: deque[Job] = deque()
        self._crowd: deque[Job] = deque()
        self._crowd_max = commands_max - commands_max // QUEUE_SHARE
        self._waiting: dict[Key, int] = {}

    def __bool__(self) -> bool:
        """True when a lane would find a job here."""
        return bool(self._calm or self._crowd)

    @property
    def is_full(self) -> bool:
        """True when nothing more is taken, whatever it is."""
        return self.commands >= self.commands_max

    def admit(self, job: Job) -> None:
        """Count a job. Raises `Overloaded` when too much waits; a job is never too large alone."""
        room = max(self.commands_max, len(job.commands)) - self.commands
        if job.may_be_shed and len(job.commands) > room:
            raise Overloaded("Too many requests are waiting.")
        self.commands += len(job.commands)

    def leave(self, job: Job) -> None:
        """Count a job no longer."""
        self.commands -= len(job.commands)

    def put(self, job: Job) -> None:
        """Append a job. Raises `Overloaded` when too much waits, or for the same SKU."""
        waiting = self._waiting
        is_crowded = any(waiting.get(key, 0) >= self.crowd_min for key in job.stock_keys())
        if is_crowded and self.commands + len(job.commands) > self._crowd_max:
            raise Overloaded("Too many requests for the same SKU are waiting.")
        self.admit(job)
        for key in job.stock_keys():
            waiting[key] = waiting.get(key, 0) + 1
        (self._crowd if is_crowded else self._calm).append(job)

    def take(self, room: int, apart: set[Any]) -> list[Job]:
        """Return the next jobs, of `room` lines in all or a single larger one.

        Those that name what is in `apart` stay where they are.
        """
        jobs: list[Job] = []
        kept = room // BATCH_SHARE if self._crowd else 0
        room = kept + self._move(self._calm, jobs, room - kept, apart)
        room = self._move(self._crowd, jobs, room, apart)
        self._move(self._calm, jobs, room, apart)
        return jobs

    def take_older(self, moment: float) -> list[Job]:
        """Return the jobs that were queued before that moment."""
        jobs: list[Job] = []
        for queue in (self._calm, self._crowd):
            while queue and queue[0].queued_at < moment:
                jobs.append(self._forget(queue.popleft()))
        return jobs

    def _move(self, queue: deque[Job], jobs: list[Job], room: int, apart: set[Any]) -> int:
        """Take from one of the two what there is room for; return the room that is left."""
        parked: list[Job] = []
        while queue and (queue[0].weight <= room or not jobs):
            job = queue.popleft()
            if apart and not apart.isdisjoint(job.names()):
                parked.append(job)
                continue
            self._forget(job)
            if not job.outcomes.done():
                jobs.append(job)
                room -= job.weight
        queue.extendleft(reversed(parked))
        return room

    def _forget(self, job: Job) -> Job:
        self.leave(job)
        for key in job.stock_keys():
            left = self._waiting[key] - 1
            if left:
                self._waiting[key] = left
            else:
                del self._waiting[key]
        return job
