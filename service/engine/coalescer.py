"""The coalescer: the requests that arrive during a transaction are merged into the next one.

There is no timer, so an idle service runs a request at once, alone. Under load, a lane takes
everything that waits, up to a bound, as one batch: the longer a COMMIT takes, the more requests the
next one covers. The commands of one request stay together and in order. Each batch runs in a task
of its own, so a client that disconnects cancels nothing.
"""

import asyncio
import math
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from service import metrics
from service.domain.commands import Command, Outcome, R_co, weight_of
from service.domain.errors import OutcomeUnknown, Overloaded, ServiceError, Unavailable
from service.engine.ledger import Ledger, NeedsSplitting
from service.engine.queue import Queue, Submission
from service.engine.splitting import (
    FIRST_APART,
    NOT_APART,
    BatchStep,
    Refuse,
    Run,
    RunInParts,
    SetApart,
    split,
    split_commands,
)


@dataclass(frozen=True, slots=True)
class CoalescerLimits:
    """The limits of one worker: on waiting commands, on waiting times and on batches."""

    lanes: int = 1  # transactions under way at once
    queued_commands_max: int = 2_000  # about one second of work; more would only add delay
    crowd_min: int = 32  # commands for one SKU that form a crowd: half a batch
    batch_lines_max: int = 64  # the next request waits for the whole batch
    lane_lines_max: int = 500  # a larger submission would delay the others, so it runs beside lanes
    large_submissions_max: int = 2  # at once; each occupies a connection for a second
    full_wait_seconds: float = 0.5  # for space in a full queue: early refusals bring early retries
    full_wait_seconds_max: float = 2.0  # the same when many requests wait for space
    refusals_per_second: int = 1_000  # by a full queue; more requests than that wait longer
    queued_seconds_max: float = 5.0  # until a submission starts to run
    answer_seconds_max: float = 7.5  # until it is answered, in all: clients are promised ten
    large_answer_seconds_max: float = 70.0  # for a large one: its transaction may take 60
    drain_seconds_max: float = 10.0  # at shutdown, for work under way
    lock_attempts_max: int = 4  # for a batch that was set apart; each waits as long as for any lock


LATE_CHECK_SECONDS = 0.25  # short beside the shortest bound that it enforces

ANSWERED_AT_ONCE = 8  # submissions; writing the answers to sockets takes about a millisecond


class Coalescer:
    """Merges submissions into batches and runs the batches in lanes."""

    def __init__(self, ledger: Ledger, limits: CoalescerLimits | None = None) -> None:
        self.ledger = ledger
        self.limits = limits or CoalescerLimits()
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(self.limits.queued_commands_max, self.limits.crowd_min)
        self._lanes_busy = 0
        self._lanes_start_soon = False
        self._unanswered: set[Submission] = set()
        self._locked: set[Any] = set()
        """The ids and stock keys that batches set apart wait for."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._large = asyncio.Semaphore(self.limits.large_submissions_max)
        self._waiting_for_space = 0
        self._closing = False
        self._late_check = self._loop.call_later(LATE_CHECK_SECONDS, self._answer_late)

    async def submit(
        self,
        commands: Sequence[Command[R_co]],
        *,
        may_be_shed: bool = True,
        waited_seconds: float = 0.0,
    ) -> list[Outcome[R_co]]:
        """Return the commands' outcomes once they are durable.

        The time that the request has already waited, `waited_seconds`, is deducted from the time in
        which it must be answered. Raises `Overloaded` when the queue is full or when the commands
        were queued for too long, `OutcomeUnknown` when there is no answer in time, and the
        errors that hold for a batch as a whole: `Contention`, `Unavailable`, `OutcomeUnknown`.
        """
        if self._closing:
            raise Unavailable("The service is shutting down.")
        weight = sum(map(weight_of, commands))
        is_large = weight > self.limits.lane_lines_max
        patience = (
            self.limits.large_answer_seconds_max if is_large else self.limits.answer_seconds_max
        )
        now = self._loop.time()
        outcomes = self._loop.create_future()
        give_up_at = now + patience - waited_seconds
        submission = Submission(commands, outcomes, now, weight, give_up_at, may_be_shed)
        enter = self._queue.admit if is_large else self._queue.put
        try:
            enter(submission)
        except Overloaded:
            await self._wait_briefly()
            enter(submission)
        if is_large:
            self._spawn(self._run_large(submission))
        else:
            self._start_lanes_soon()
        self._unanswered.add(submission)
        try:
            return await submission.outcomes
        finally:
            self._unanswered.discard(submission)

    async def wait_for_space(self) -> float:
        """Return once the queue is not full, with the seconds that this took.

        A route can call it before it spends any work on a request. Raises `Overloaded` when the
        queue is still full after a brief wait, and `Unavailable` when the service shuts down.
        """
        if not self._queue.is_full:
            return 0.0
        began_at = self._loop.time()
        await self._wait_briefly()
        if self._queue.is_full:
            raise Overloaded("Too many requests are waiting.")
        return self._loop.time() - began_at

    async def _wait_briefly(self) -> None:
        """Make a request that finds the queue full wait briefly, for a random time.

        Thousands of clients that ignore Retry-After would otherwise keep the worker busy with
        refusals alone. Raises `Unavailable` when the service shuts down in the meantime.
        """
        self._waiting_for_space += 1
        try:
            pace = self._waiting_for_space / self.limits.refusals_per_second
            seconds = min(
                max(self.limits.full_wait_seconds, pace), self.limits.full_wait_seconds_max
            )
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        finally:
            self._waiting_for_space -= 1
        if self._closing:
            raise Unavailable("The service is shutting down.")

    async def drain(self) -> None:
        """Accept no more commands; return once everything accepted is answered, or time is up."""
        self._closing = True
        give_up_at = self._loop.time() + self.limits.drain_seconds_max
        while (self._tasks or self._queue) and self._loop.time() < give_up_at:  # noqa: ASYNC110 - several things end
            await asyncio.sleep(0.01)
        self._late_check.cancel()
        self.give_up()

    def give_up(self) -> None:
        """Answer everything that is still unanswered, before the connections are cut."""
        for submission in self._queue.take_older(math.inf):
            _refuse(submission, Unavailable("The service is shutting down."))
        for submission in self._unanswered:
            _refuse(submission, OutcomeUnknown("The service shut down while this was under way."))

    def _start_lanes_soon(self) -> None:
        """Start lanes after this turn of the event loop, so that the turn's requests merge."""
        if not self._lanes_start_soon and self._lanes_busy < self.limits.lanes:
            self._lanes_start_soon = True
            self._loop.call_soon(self._start_lanes)

    def _start_lanes(self) -> None:
        self._lanes_start_soon = False
        while self._lanes_busy < self.limits.lanes and (batch := self._next_batch()):
            self._lanes_busy += 1
            self._spawn(self._run_lane(batch))

    def _next_batch(self) -> list[Submission]:
        batch = self._queue.take(self.limits.batch_lines_max, without=self._locked)
        metrics.QUEUED.set(self._queue.commands)
        return batch

    def _more_wait(self) -> bool:
        """True when a lane that is free now finds its next batch in the queue."""
        return bool(self._queue)

    async def _run_lane(self, batch: list[Submission]) -> None:
        try:
            await self._run(batch, NOT_APART)
        finally:
            self._lanes_busy -= 1
            self._start_lanes()

    async def _run_large(self, submission: Submission) -> None:
        """Run a submission that is too large to be merged with others, beside the lanes."""
        async with self._large:
            self._queue.leave(submission)
            await self._run([submission], NOT_APART)

    async def _run(self, batch: list[Submission], attempt: int) -> None:
        """Run submissions as one batch; if the batch fails, split it."""
        commands = [command for submission in batch for command in submission.commands]
        try:
            outcomes = await self.ledger.execute(commands, self._more_wait)
        except (ServiceError, NeedsSplitting) as failure:
            attempts_max = self.limits.lock_attempts_max
            steps = split(batch, failure, attempt=attempt, attempts_max=attempts_max)
        else:
            self._spawn(_answer_all(batch, outcomes))
            return
        for step in steps:
            await self._carry_out(step)

    async def _carry_out(self, step: BatchStep) -> None:
        match step:
            case Refuse(submissions, error):
                for submission in submissions:
                    _refuse(submission, error)
            case Run(submissions, attempt):
                await self._run(submissions, attempt)
            case SetApart(submissions, locked):
                self._spawn(self._run_apart(submissions, locked))
            case RunInParts(submission, attempt):
                _answer(submission, await self._run_commands(submission.commands, attempt))
            case _:
                assert_never(step)

    async def _run_apart(self, batch: list[Submission], locked: set[Any]) -> None:
        """Wait for locked rows beside the lanes; others that name them wait in the queue."""
        newly_locked = locked - self._locked
        self._locked |= newly_locked
        try:
            await self._run(batch, FIRST_APART)
        finally:
            self._locked -= newly_locked
            self._start_lanes_soon()

    async def _run_commands(
        self, commands: Sequence[Command[Any]], attempt: int
    ) -> list[Outcome[Any]]:
        """Run commands of one submission; if they fail together, in parts and in order."""
        try:
            return await self.ledger.execute(commands)
        except (ServiceError, NeedsSplitting) as failure:
            parts = split_commands(commands, failure, attempt=attempt)
        outcomes: dict[int, Outcome[Any]] = {}
        for part in parts:
            answers: list[Outcome[Any]] = (
                await self._run_commands(
                    [commands[position] for position in part.positions], attempt
                )
                if part.answer is None
                else [part.answer] * len(part.positions)
            )
            outcomes.update(zip(part.positions, answers, strict=True))
        return [outcomes[position] for position in range(len(commands))]

    def _answer_late(self) -> None:
        """Answer the submissions that waited too long, to start or for their answer.

        Work that has started goes on, within its own time limits; a retry finds it by its seq.
        """
        now = self._loop.time()
        for submission in self._queue.take_older(now - self.limits.queued_seconds_max):
            _refuse(submission, Overloaded("The request waited too long."))
        for submission in self._unanswered:
            if submission.give_up_at < now:
                error = OutcomeUnknown("The request took too long and is still under way.")
                _refuse(submission, error)
        self._late_check = self._loop.call_later(LATE_CHECK_SECONDS, self._answer_late)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _answer_all(batch: list[Submission], outcomes: list[Outcome[Any]]) -> None:
    """Answer a few at a time, so that the next transaction goes on while answers are written."""
    start = 0
    for number, submission in enumerate(batch, start=1):
        end = start + len(submission.commands)
        _answer(submission, outcomes[start:end])
        start = end
        if number % ANSWERED_AT_ONCE == 0:
            await asyncio.sleep(0)


def _answer(submission: Submission, outcomes: list[Outcome[Any]]) -> None:
    if not submission.outcomes.done():
        submission.outcomes.set_result(outcomes)


def _refuse(submission: Submission, error: ServiceError) -> None:
    if not submission.outcomes.done():
        submission.outcomes.set_exception(error)
