"""The crowd: clients that reserve, confirm, cancel and refund, and record the answers.

Closed loop: each client sends its next request when the last one is answered, so a slow service
gets fewer requests. Open loop: orders arrive at a fixed rate whether earlier ones are answered or
not, and latency counts from the moment at which an order was due (Schroeder, Wierman and
Harchol-Balter, "Open Versus Closed", NSDI 2006).
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
)
from service.domain.errors import InsufficientStock, ServiceError
from service.domain.identifiers import reservation_id
from service.engine.coalescer import Coalescer
from service.lab.experiment import HOLD_SECONDS, LOCATION, SOURCE, Experiment

CALLER = Caller(SOURCE)
LabCommand: TypeAlias = Reserve | Confirm | Cancel | RefundUnits
"""The commands that the clients send."""

SENDS_MAX = 6
"""The number of times that a client sends a request that it is told to retry."""
RETRY_SECONDS = 0.05
"""The mean wait before a retry; real clients wait for Retry-After, about a second."""


class Exchange(NamedTuple):
    """One request and its answer. Times are of the monotonic clock, the same in all processes."""

    kind: str
    """The requested movement: reserve, cancel or refund; or confirm, which moves no unit."""
    reservation: UUID
    due: float
    called: float
    answered: float
    outcome: str
    """created, changed, unchanged, or an error's code."""
    is_replayed: bool
    shortages: tuple[tuple[str, int, int], ...] = ()
    """(SKU, requested units, available units) of a refusal."""


class Crowd:
    """The clients of one process, and their requests and answers."""

    def __init__(
        self,
        experiment: Experiment,
        services: Sequence[Coalescer],
        process: int,
        counts: list[int],
    ) -> None:
        self.exchanges: list[Exchange] = []
        self._experiment = experiment
        self._services = services
        self._process = process
        self._counts = counts
        """The number of answers of each process so far, for the progress display."""
        self._random = random.Random(f"{experiment.seed}/{process}")  # noqa: S311 - repeatable
        self._numbers = itertools.count()
        self._twins = itertools.count()
        self._names = experiment.sku_names
        weights = [1 / rank**experiment.zipf for rank in range(1, experiment.skus + 1)]
        self._weights = list(itertools.accumulate(weights))
        self._ends_at = 0.0

    async def run(self) -> None:
        """Send for the duration of the experiment, then wait for the outstanding answers."""
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
        """Send orders as a Poisson process, like many independent buyers."""
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
        """Send one order and the requests that follow it."""
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
        """Send one order through every service of this process; the other processes send it too."""
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
        """Send until there is a final answer; True when the request was carried out."""
        id_ = command.effective_id if isinstance(command, Reserve) else command.id
        for _ in range(SENDS_MAX):
            called = time.monotonic()
            outcome = await _outcome(service, command)
            answered = time.monotonic()
            self.exchanges.append(_note(kind, id_, due, called, answered, outcome))
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
) -> Exchange:
    if isinstance(outcome, Done):
        return Exchange(kind, id_, due, called, answered, outcome.effect, outcome.replayed)
    shortages: tuple[tuple[str, int, int], ...] = ()
    if isinstance(outcome, InsufficientStock):
        shortages = tuple(
            (short["sku"], short["requested"], short["available"])
            for short in outcome.fields["shortages"]
        )
    return Exchange(kind, id_, due, called, answered, outcome.code, outcome.replayed, shortages)
