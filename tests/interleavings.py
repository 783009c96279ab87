"""Every possible order of the steps of concurrent batches; tests/stage.py plays them.

The real ledger carries out each batch against a real PostgreSQL, but waits for its turn before
each step: load, apply, COMMIT, and the steps of every further attempt. At each point one of the
waiting batches is chosen to continue. A batch that waits for a lock in PostgreSQL can't be chosen,
as in PostgreSQL's own isolationtester. The search is depth first and tries every choice; each
order starts again from the first step.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from db.rows import Snapshot, Wanted, Writes
from db.session.database import Transaction, sqlstate
from db.session.engine import driver_of
from db.session.failures import FAILURES
from db.strategies.strategy import HeldLocks, Strategy
from service.domain.commands import Command, Outcome
from service.domain.errors import ServiceError

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = timedelta(hours=1)


@dataclass
class Case:
    """The commands before, the concurrent batches, and the events that happen meanwhile."""

    before: list[Command]
    batches: list[list[Command]]
    deadline_passes: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    """The limits of the source `us`."""
    is_locked: str | None = None
    """A SKU whose row another session locks for a while, so that the batches wait for it."""


class Order:
    """One order of the steps: the number of the side that was chosen at each point."""

    def __init__(self, choices: list[int]) -> None:
        self.choices = choices
        self.steps: list[str] = []
        self._counts: list[int] = []

    def choose(self, waiting: list["Side"]) -> "Side":
        place = len(self._counts)
        self._counts.append(len(waiting))
        if place == len(self.choices):
            self.choices.append(0)
        chosen = waiting[self.choices[place]]
        self.steps.append(f"{chosen.name} {chosen.step}")
        return chosen

    def next(self) -> list[int] | None:
        """The choices of the next order; None after the last one."""
        choices = list(self.choices)
        for place in reversed(range(len(self._counts))):
            if choices[place] + 1 < self._counts[place]:
                return [*choices[:place], choices[place] + 1]
        return None


def every_order() -> Iterator[Order]:
    choices: list[int] | None = []
    while choices is not None:
        order = Order(choices)
        yield order
        choices = order.next()


@dataclass
class Side:
    """A batch, the deadline or another session; `step` is the step for which it awaits its turn."""

    name: str
    commands: list[Command]
    changed: asyncio.Event
    step: str | None = None
    has_ended: bool = False
    began: int | None = None
    """The places in the order at which its first step began and its last one ended."""
    ended: int | None = None
    read_at: datetime = START
    applied_at: datetime | None = None
    """The time at which the last attempt had its locks and its writes; None without writes."""
    outcomes: list[Outcome] | ServiceError = field(default_factory=list)
    process_id: int = 0
    is_deadlocked: bool = False
    _turn: asyncio.Event = field(default_factory=asyncio.Event)

    async def turn(self, step: str) -> None:
        self.step = step
        self.changed.set()
        await self._turn.wait()
        self._turn.clear()

    def go_on(self, place: int) -> None:
        self.began = place if self.began is None else self.began
        self.step = None
        self._turn.set()

    def end(self) -> None:
        self.has_ended = True
        self.changed.set()


class Stepped(Strategy):
    """A strategy that awaits its turn before each step."""

    def __init__(self, strategy: Strategy, side: Side, clock: "Clock") -> None:
        self.name, self.isolation = strategy.name, strategy.isolation
        self.pins_rows = strategy.pins_rows
        self.strategy, self.side, self.clock = strategy, side, clock

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:
        self.side.process_id = driver_of(connection).get_server_pid()
        await self.side.turn("load")
        snapshot = await self.strategy.load(connection, wanted, locked=locked)
        self.side.read_at, self.side.applied_at = snapshot.now, None
        return snapshot

    async def apply(self, transaction: Transaction, planned: Writes, held: HeldLocks) -> None:
        await self.side.turn("apply")
        try:
            await self.strategy.apply(transaction, planned, held)
        except FAILURES as error:
            self.side.is_deadlocked |= sqlstate(error) == "40P01"
            raise
        self.side.applied_at = self.clock.now
        await self.side.turn("commit")


@dataclass
class Clock:
    now: datetime
    connection: asyncpg.Connection

    async def set(self, now: datetime) -> None:
        hours = int((now - START) / timedelta(hours=1))
        await self.connection.execute("SELECT setval('passed', $1)", hours)
        self.now = now
