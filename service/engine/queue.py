"""The queue before the lanes: first come, first served, but a crowd does not delay the others.

A submission joins the crowd when it names a stock row for which many commands already wait. The
others go first. The crowd gets the rest of each batch, a quarter at least, and is refused when the
queue is three quarters full. So a flood of requests for one SKU hardly delays buyers of other SKUs.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from db.rows import StockKey
from service.domain.commands import Command, Outcome, Reserve, names_of
from service.domain.errors import Overloaded

BATCH_SHARE = 4  # a quarter of a batch is reserved for the crowd, so that it moves on, too
QUEUE_SHARE = 4  # a quarter of the queue is reserved for submissions outside the crowd


@dataclass(slots=True, eq=False)
class Submission:
    """The commands of one request and the future of their outcomes."""

    commands: Sequence[Command[Any]]
    outcomes: asyncio.Future[list[Outcome[Any]]]
    queued_at: float
    weight: int
    """The lines of all the commands together."""
    give_up_at: float
    """The moment at which the submission is answered, even if it is still under way."""
    may_be_shed: bool = True
    """False for a submission that a full queue must accept."""

    def names(self) -> set[Any]:
        """Return the ids and stock keys that the commands name."""
        return set().union(*(names_of(command) for command in self.commands))

    def stock_keys(self) -> Iterator[StockKey]:
        """Return the stock rows that the commands reserve from."""
        for command in self.commands:
            if type(command) is Reserve:
                for line in command.lines:
                    yield line.sku, line.location


class Queue:
    """Submissions that wait for a lane, at most a given number of commands."""

    def __init__(self, commands_max: int, crowd_min: int) -> None:
        self.commands_max = commands_max
        self.crowd_min = crowd_min
        """The number of commands that must wait for a stock row before one more joins the crowd."""
        self.commands = 0
        """The number of waiting commands, with those of large submissions, which wait elsewhere."""
        self._calm: deque[Submission] = deque()
        self._crowd: deque[Submission] = deque()
        self._crowd_max = commands_max - commands_max // QUEUE_SHARE
        self._waiting: dict[StockKey, int] = {}

    def __bool__(self) -> bool:
        """True when a lane would find a submission here."""
        return bool(self._calm or self._crowd)

    @property
    def is_full(self) -> bool:
        """True when the queue refuses every submission that may be shed."""
        return self.commands >= self.commands_max

    def admit(self, submission: Submission) -> None:
        """Count a submission. Raises `Overloaded` when too many commands wait.

        A submission that is larger than the queue is accepted when nothing else waits.
        """
        space = max(self.commands_max, len(submission.commands)) - self.commands
        if submission.may_be_shed and len(submission.commands) > space:
            raise Overloaded("Too many requests are waiting.")
        self.commands += len(submission.commands)

    def leave(self, submission: Submission) -> None:
        """Stop counting a submission."""
        self.commands -= len(submission.commands)

    def put(self, submission: Submission) -> None:
        """Append a submission.

        Raises `Overloaded` when too many commands wait, in all or for the same SKU.
        """
        waiting = self._waiting
        is_crowded = any(waiting.get(key, 0) >= self.crowd_min for key in submission.stock_keys())
        if is_crowded and self.commands + len(submission.commands) > self._crowd_max:
            raise Overloaded("Too many requests for the same SKU are waiting.")
        self.admit(submission)
        for key in submission.stock_keys():
            waiting[key] = waiting.get(key, 0) + 1
        (self._crowd if is_crowded else self._calm).append(submission)

    def take(self, lines_max: int, without: set[Any]) -> list[Submission]:
        """Return the next submissions, of `lines_max` lines in all or a single larger one.

        Submissions that name an id or a stock key in `without` keep their places.
        """
        batch: list[Submission] = []
        reserved = lines_max // BATCH_SHARE if self._crowd else 0
        lines_left = reserved + self._move(self._calm, batch, lines_max - reserved, without)
        lines_left = self._move(self._crowd, batch, lines_left, without)
        self._move(self._calm, batch, lines_left, without)
        return batch

    def take_older(self, moment: float) -> list[Submission]:
        """Return the submissions that were queued before that moment, and remove them."""
        older: list[Submission] = []
        for queue in (self._calm, self._crowd):
            while queue and queue[0].queued_at < moment:
                older.append(self._forget(queue.popleft()))
        return older

    def _move(
        self, queue: deque[Submission], batch: list[Submission], lines_left: int, without: set[Any]
    ) -> int:
        """Move submissions that still fit from a queue to the batch; return the lines left."""
        passed_over: list[Submission] = []
        while queue and (queue[0].weight <= lines_left or not batch):
            submission = queue.popleft()
            if without and not without.isdisjoint(submission.names()):
                passed_over.append(submission)
                continue
            self._forget(submission)
            if not submission.outcomes.done():
                batch.append(submission)
                lines_left -= submission.weight
        queue.extendleft(reversed(passed_over))
        return lines_left

    def _forget(self, submission: Submission) -> Submission:
        self.leave(submission)
        for key in submission.stock_keys():
            left = self._waiting[key] - 1
            if left:
                self._waiting[key] = left
            else:
                del self._waiting[key]
        return submission
