"""The coalescer: whatever has queued while a transaction was under way is the next one.

No timer: an idle service runs a request at once, alone. Under load a lane takes all that waits, up
to a bound, as one batch; the longer a COMMIT takes, the more it carries. A job is the commands of
one HTTP request, kept together and in order. Units of work run in tasks of their own, so that a
client who goes away cancels nothing.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from service import metrics
from service.domain.commands import Command, Outcome, R_co, names_of, weight_of
from service.domain.errors import Contention, OutcomeUnknown, Overloaded, ServiceError, Unavailable
from service.engine.ledger import Indivisible, Ledger
from service.engine.queue import Job, Queue


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait and how much is merged, per worker."""

    lanes: int = 1  # transactions under way at once
    queued_commands_max: int = 2_000  # about a second's work; more only adds delay
    crowd_min: int = 32  # commands waiting for one SKU before all others go first: half a batch
    batch_lines_max: int = 64  # whoever comes next waits for the whole of it
    lane_lines_max: int = 500  # a larger job would keep the others waiting
    large_jobs_max: int = 2  # at once beside the lanes; each takes a connection for a second
    room_seconds: float = 0.5  # for room in the queue; who is refused at once asks again at once
    room_seconds_max: float = 2.0  # when many wait for room
    refusals_per_second: int = 1_000  # for want of room: how many wait for it lengthens the wait
    queued_seconds_max: float = 5.0  # nobody waits longer to be begun with
    answer_seconds_max: float = 7.5  # nor to be answered, whatever adds up: ten are promised
    large_answer_seconds_max: float = 70.0  # for a large job: its transaction may take 60
    drain_seconds_max: float = 10.0  # for work in flight at shutdown
    stuck_attempts_max: int = 4  # apart from the lanes; each waits as long as for any lock


ANSWERED_AT_ONCE = 8  # about a millisecond of writing to sockets


class Coalescer:
    """Merges jobs into batches and runs them in lanes."""

    def __init__(self, ledger: Ledger, limits: Limits | None = None) -> None:
        self.ledger = ledger
        self.limits = limits or Limits()
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(self.limits.queued_commands_max, self.limits.crowd_min)
        self._lanes_busy = 0
        self._pump_due = False
        self._unanswered: set[Job] = set()
        self._stuck: set[Any] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._large = asyncio.Semaphore(self.limits.large_jobs_max)
        self._lingering = 0
        self._closing = False
        self._watch = self._loop.call_later(0.25, self._shed_late)

    async def submit(
        self,
        commands: Sequence[Command[R_co]],
        *,
        may_be_shed: bool = True,
        waited_seconds: float = 0.0,
    ) -> list[Outcome[R_co]]:
        """Return the commands' outcomes once they are durable; who has waited waits less.

        Raises `Overloaded` when too much waits already, or for too long, and whatever holds for
        the batch as a whole: `Contention`, `Unavailable`, `OutcomeUnknown`; the last one also when
        the answer is not there in time.
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
        job = Job(commands, outcomes, now, weight, now + patience - waited_seconds, may_be_shed)
        enter = self._queue.admit if is_large else self._queue.put
        try:
            enter(job)
        except Overloaded:
            await self._linger()
            enter(job)
        if is_large:
            self._spawn(self._run_large(job))
        else:
            self._pump_soon()
        self._unanswered.add(job)
        try:
            return await job.outcomes
        finally:
            self._unanswered.discard(job)

    async def expect_room(self) -> float:
        """Return, when there is room for something, the seconds for which there was none.

        For those who would rather know before they have any work with a request. Raises
        `Overloaded` if there is none after a moment, and as `_linger` does.
        """
        if not self._queue.is_full:
            return 0.0
        began_at = self._loop.time()
        await self._linger()
        if self._queue.is_full:
            raise Overloaded("Too many requests are waiting.")
        return self._loop.time() - began_at

    async def _linger(self) -> None:
        """Keep who finds no room waiting for a moment, each for another one.

        Refused at once, thousands of clients that do not heed Retry-After would keep the worker
        busy with nothing but refusals. Raises `Unavailable` when the service shuts down meanwhile.
        """
        self._lingering += 1
        try:
            pace = self._lingering / self.limits.refusals_per_second
            seconds = min(max(self.limits.room_seconds, pace), self.limits.room_seconds_max)
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        finally:
            self._lingering -= 1
        if self._closing:
            raise Unavailable("The service is shutting down.")

    async def drain(self) -> None:
        """Take no more work and return when all that was taken is answered."""
        self._closing = True
        give_up_at = self._loop.time() + self.limits.drain_seconds_max
        while (self._tasks or self._queue) and self._loop.time() < give_up_at:  # noqa: ASYNC110 - several things end
            await asyncio.sleep(0.01)
        self._watch.cancel()
        self.give_up()

    def give_up(self) -> None:
        """Answer all that is still owed, before the connections are cut."""
        for job in self._queue.take_older(math.inf):
            _refuse(job, Unavailable("The service is shutting down."))
        for job in self._unanswered:
            _refuse(job, OutcomeUnknown("The service shut down while this was under way."))

    def _pump_soon(self) -> None:
        """Start lanes when this turn of the event loop is over, so that its requests merge."""
        if not self._pump_due and self._lanes_busy < self.limits.lanes:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        while self._lanes_busy < self.limits.lanes and (jobs := self._take()):
            self._lanes_busy += 1
            self._spawn(self._run_lane(jobs))

    def _take(self) -> list[Job]:
        """The next batch: jobs in order, without those that wait for a stuck row."""
        jobs = self._queue.take(self.limits.batch_lines_max, apart=self._stuck)
        metrics.QUEUED.set(self._queue.commands)
        return jobs

    def _more_wait(self) -> bool:
        """True when a lane that is free now has its next batch waiting."""
        return bool(self._queue)

    async def _run_lane(self, jobs: list[Job]) -> None:
        try:
            await self._run(jobs)
        finally:
            self._lanes_busy -= 1
            self._pump()

    async def _run_large(self, job: Job) -> None:
        """Carry out, beside the lanes, what is too large to be merged with others."""
        async with self._large:
            self._queue.leave(job)
            await self._run([job])

    async def _run(self, jobs: list[Job], stuck_attempts: int = 0) -> None:
        """Carry jobs out as one batch, or in parts if they can't be as one."""
        commands = [command for job in jobs for command in job.commands]
        try:
            outcomes = await self.ledger.execute(commands, self._more_wait)
        except ServiceError as error:
            for job in jobs:
                _refuse(job, error)
        except Indivisible as indivisible:
            await self._run_parts(jobs, indivisible.blocked, stuck_attempts)
        else:
            self._spawn(_answer_all(jobs, outcomes))

    async def _run_parts(self, jobs: list[Job], blocked: set[Any], stuck_attempts: int) -> None:
        """Set the jobs apart that name a locked row; if that is not why, halve the batch."""
        stuck = [job for job in jobs if not blocked.isdisjoint(job.names())]
        free = [job for job in jobs if blocked.isdisjoint(job.names())]
        if stuck:
            if not stuck_attempts:
                self._spawn(self._run_stuck(stuck, blocked))
            if free:
                await self._run(free, stuck_attempts)
            if stuck_attempts:
                await self._run_again(stuck, stuck_attempts + 1)
        elif len(jobs) > 1:
            middle = len(jobs) // 2
            await self._run(jobs[:middle], stuck_attempts)
            await self._run(jobs[middle:], stuck_attempts)
        else:
            _answer(jobs[0], await self._run_entries(jobs[0].commands, stuck_attempts))

    async def _run_stuck(self, jobs: list[Job], blocked: set[Any]) -> None:
        """Wait for locked rows apart from the lanes; who else names them waits in the queue."""
        stuck = blocked - self._stuck
        self._stuck |= stuck
        try:
            await self._run(jobs, stuck_attempts=1)
        finally:
            self._stuck -= stuck
            self._pump_soon()

    async def _run_again(self, jobs: list[Job], stuck_attempts: int) -> None:
        """Go on waiting, as one batch; when patience is spent, do what can be done."""
        if stuck_attempts <= self.limits.stuck_attempts_max:
            await self._run(jobs, stuck_attempts)
            return
        for job in jobs:
            if len(job.commands) > 1:
                _answer(job, await self._run_entries(job.commands, stuck_attempts))
            else:
                _refuse(job, _contention(stuck_attempts))

    async def _run_entries(
        self, commands: Sequence[Command[Any]], stuck_attempts: int
    ) -> list[Outcome[Any]]:
        """Carry one job's commands out, in order, so that a bad or a stuck one fails alone."""
        try:
            return await self.ledger.execute(commands)
        except ServiceError as error:
            return [error.as_value()] * len(commands)
        except Indivisible as indivisible:
            blocked = indivisible.blocked
        is_free = [blocked.isdisjoint(names_of(command)) for command in commands]
        if all(is_free):
            middle = len(commands) // 2
            first = await self._run_entries(commands[:middle], stuck_attempts)
            return first + await self._run_entries(commands[middle:], stuck_attempts)
        free = list(itertools.compress(commands, is_free))
        done = iter(await self._run_entries(free, stuck_attempts) if free else [])
        return [next(done) if has_run else _contention(stuck_attempts) for has_run in is_free]

    def _shed_late(self) -> None:
        """Answer what has waited too long: to be begun with, or at all.

        What was begun goes on, within its own bounds, and is found by its seq.
        """
        now = self._loop.time()
        for job in self._queue.take_older(now - self.limits.queued_seconds_max):
            _refuse(job, Overloaded("The request waited too long."))
        for job in self._unanswered:
            if job.give_up_at < now:
                _refuse(job, OutcomeUnknown("The request took too long and is still under way."))
        self._watch = self._loop.call_later(0.25, self._shed_late)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _contention(attempts: int) -> Contention:
    return Contention("The stock is locked by another session.", attempts=attempts)


async def _answer_all(jobs: list[Job], outcomes: list[Outcome[Any]]) -> None:
    """Answer a few at a time: the next batch's transaction goes on while answers are written."""
    start = 0
    for place, job in enumerate(jobs, start=1):
        end = start + len(job.commands)
        _answer(job, outcomes[start:end])
        start = end
        if place % ANSWERED_AT_ONCE == 0:
            await asyncio.sleep(0)


def _answer(job: Job, outcomes: list[Outcome[Any]]) -> None:
    if not job.outcomes.done():
        job.outcomes.set_result(outcomes)


def _refuse(job: Job, error: ServiceError) -> None:
    if not job.outcomes.done():
        job.outcomes.set_exception(error)
