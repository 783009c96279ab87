"""The crowd: clients that reserve, confirm, cancel and refund, and note what they were answered.

Closed loop: each client sends its next request when the last one is answered, so a slow service is
asked less. Open loop: orders arrive at a fixed rate whatever happens, and latency counts from the
moment an order was due (Schroeder, Wierman and Harchol-Balter, "Open Versus Closed", NSDI 2006).
"""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from service.domain.commands import (
    Caller,
    Cancel,
    Confirm,
    Done,
    Outcome,
    RefundUnits,
    Reserve,
    merge_lines,
    reservation_id,
)
from service.domain.errors import InsufficientStock, ServiceError
from service.engine.coalescer import Coalescer
from service.lab.experiment import HOLD_SECONDS, LOCATION, SOURCE, Experiment

CALLER = Caller(SOURCE)
LabCommand: TypeAlias = Reserve | Confirm | Cancel | RefundUnits
"""The commands that the clients send."""

SENDS_MAX = 6
"""How often a client sends a request that it is told to retry."""
RETRY_SECONDS = 0.05
"""What a client waits before that, jittered; real ones heed Retry-After, a second or so."""


class Answer(NamedTuple):
    """One request and its answer; times are the monotonic clock's, the same in all processes."""

    kind: str
    """The movement it asks for: reserve, cancel, refund; or confirm, which moves no unit."""
    reservation: UUID
    due: float
    called: float
    answered: float
    outcome: str
    """created, changed, unchanged, or an error's code."""
    is_replayed: bool
    shortages: tuple[tuple[str, int, int], ...] = ()
    """(SKU, units asked for, units there were), when it was refused."""


class Crowd:
    """The clients of one process, and what they saw."""

    def __init__(
        self,
        experiment: Experiment,
        services: Sequence[Coalescer],
        process: int,
        counts: list[int],
    ) -> None:
        self.answers: list[Answer] = []
        self._experiment = experiment
        self._services = services
        self._process = process
        self._counts = counts
        """Answers so far, for whoever watches, at this process's place."""
        self._random = random.Random(f"{experiment.seed}/{process}")  # noqa: S311 - repeatable
        self._numbers = itertools.count()
        self._twins = itertools.count()
        self._names = experiment.sku_names
        weights = [1 / rank**experiment.zipf for rank in range(1, experiment.skus + 1)]
        self._weights = list(itertools.accumulate(weights))
        self._ends_at = 0.0

    async def run(self) -> None:
        """Keep the services busy for the experiment's time; then wait for what is under way."""
        self._ends_at = time.monotonic() + self._experiment.seconds
        if self._experiment.rate:
            await self._arrive()
        else:
            share = range(self._process, self._experiment.clients, self._experiment.processes)
            await asyncio.gather(*(self._shop(client) for client in share))

    async def _shop(self, client: int) -> None:
        service = self._services[client // self._experiment.processes % len(self._services)]
        while time.monotonic() < self._ends_at:
            await self._visit(service, time.monotonic())

    async def _arrive(self) -> None:
        """A Poisson process: what many independent buyers look like together."""
        visits: set[asyncio.Task[None]] = set()
        services = itertools.cycle(self._services)
        due = time.monotonic()
        while True:
            due += self._random.expovariate(self._experiment.rate / self._experiment.processes)
            if due >= self._ends_at:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            visit = asyncio.create_task(self._visit(next(services), due))
            visits.add(visit)
            visit.add_done_callback(visits.discard)
        await asyncio.gather(*visits)

    async def _visit(self, service: Coalescer, due: float) -> None:
        """One order, and what its buyer then makes of it."""
        if self._random.random() < self._experiment.twins:
            await self._send_twins(due)
            return
        order = self._order(f"{self._process}-{next(self._numbers)}", self._random)
        fate = self._random.random()
        if not await self._ask(service, "reserve", order, due):
            return
        if order.hold_seconds is not None:
            await self._decide(service, order.effective_id, is_bought=fate < 0.5)
        elif fate < self._experiment.refund:
            await self._refund(service, order.effective_id)

    async def _decide(self, service: Coalescer, id_: UUID, *, is_bought: bool) -> None:
        now = time.monotonic()
        if is_bought:
            await self._ask(service, "confirm", Confirm(CALLER, id_, None), now)
        else:
            await self._ask(service, "cancel", Cancel(CALLER, id_), now)

    async def _refund(self, service: Coalescer, id_: UUID) -> None:
        refund = RefundUnits(CALLER, id_, f"refund-{id_}", None, None)
        await self._ask(service, "refund", refund, time.monotonic())

    async def _send_twins(self, due: float) -> None:
        """The same order through every service of this process; the other processes send it too."""
        seq = f"twin-{next(self._twins)}"
        order = self._order(seq, random.Random(f"{self._experiment.seed}/{seq}"))  # noqa: S311
        await asyncio.gather(
            *(self._ask(service, "reserve", order, due) for service in self._services)
        )

    def _order(self, seq: str, source: random.Random) -> Reserve:
        chosen: set[str] = set()
        while len(chosen) < min(self._experiment.lines, self._experiment.skus):
            chosen.update(source.choices(self._names, cum_weights=self._weights))
        lines = merge_lines([(sku, LOCATION, 1) for sku in chosen])
        hold = HOLD_SECONDS if source.random() < self._experiment.hold else None
        return Reserve(SOURCE, seq, None, lines, hold, {}, reservation_id(SOURCE, seq))

    async def _ask(self, service: Coalescer, kind: str, command: LabCommand, due: float) -> bool:
        """Send until there is an answer that stands; True when it was yes."""
        id_ = command.effective_id if isinstance(command, Reserve) else command.id
        for _ in range(SENDS_MAX):
            called = time.monotonic()
            outcome = await _outcome(service, command)
            answered = time.monotonic()
            self.answers.append(_note(kind, id_, due, called, answered, outcome))
            self._counts[self._process] += 1
            if isinstance(outcome, Done):
                return True
            if not outcome.retryable or answered > self._ends_at:
                return False
            await asyncio.sleep(RETRY_SECONDS * self._random.uniform(0.5, 1.5))
        return False


async def _outcome(service: Coalescer, command: LabCommand) -> Outcome[Any]:
    try:
        return (await service.submit([command]))[0]
    except ServiceError as error:
        return error


def _note(
    kind: str, id_: UUID, due: float, called: float, answered: float, outcome: Outcome[Any]
) -> Answer:
    if isinstance(outcome, Done):
        return Answer(kind, id_, due, called, answered, outcome.effect, outcome.replayed)
    shortages: tuple[tuple[str, int, int], ...] = ()
    if isinstance(outcome, InsufficientStock):
        shortages = tuple(
            (short["sku"], short["requested"], short["available"])
            for short in outcome.fields["shortages"]
        )
    return Answer(kind, id_, due, called, answered, outcome.code, outcome.replayed, shortages)
