"""Plays concurrent cases in a database, and compares the outcome of each with the serial model.

The clock is a sequence, because sequences are not transactional: every session sees a new value at
once. It moves only when a test sets it. The passing of the deadline is one more step of a case.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger import apply as writes
from db.ledger import load as reads
from db.queries.audit import audit
from db.rows import Snapshot, Wanted
from db.session.database import Database
from db.session.engine import driver_of
from db.strategies import open_strategy
from service.domain.commands import Cancel, Confirm, Extend
from service.domain.errors import InternalError, ServiceError
from service.domain.planner import MICROSECOND
from service.engine.ledger import Ledger, NeedsSplitting
from service.engine.retry import RetryPolicy
from service.engine.source_limits import SourceLimits
from tests.interleavings import LATER, START, Case, Clock, Order, Side, Stepped, every_order
from tests.model import Model
from tests.patient import PATIENCE
from tests.roles import as_superuser
from tests.sessions import session
from tests.tables import seen, told

CLOCK = "stepped_clock()"
TABLES = (
    "source_limit", "movement", "refund_line", "refund", "adjustment", "import_job",
    "reservation_line", "reservation", "stock",
)  # fmt: skip
PREPARE = f"""
    CREATE SEQUENCE passed MINVALUE 0 START 0;
    SELECT setval('passed', 0);
    GRANT SELECT ON SEQUENCE passed TO PUBLIC;
    CREATE FUNCTION {CLOCK} RETURNS timestamptz VOLATILE LANGUAGE sql AS $$
        SELECT timestamptz '{START.isoformat()}' + last_value * interval '1 hour' FROM passed
    $$;
    CREATE FUNCTION clock_of_begin() RETURNS timestamptz VOLATILE LANGUAGE plpgsql AS $$
    BEGIN
        IF coalesce(current_setting('stepped.begin', true), '') = '' THEN
            PERFORM set_config('stepped.begin', {CLOCK}::text, true);
        END IF;
        RETURN current_setting('stepped.begin')::timestamptz;
    END $$;
"""
"""`clock_of_begin` is to the stepped clock what `now()` is to `clock_timestamp()`."""


class Stage:
    """A database in which each case is played in each order of its steps."""

    def __init__(self, database: Database, connection: asyncpg.Connection, strategy: str) -> None:
        self.database = database
        self.connection = connection
        self.clock = Clock(START, connection)
        self.strategy = open_strategy(strategy)

    async def play(self, case: Case, order: Order) -> str | None:
        """Play the case in that order; return a description of the error, or None."""
        await self.connection.execute("; ".join(f"DELETE FROM {table}" for table in TABLES))
        await self.clock.set(START)
        if case.limits:
            await SourceLimits(self.database).put("us", case.limits)
        prepared = await Ledger(self.database, self.strategy).execute(case.before)
        assert all(told(outcome)[0] in (200, 201) for outcome in prepared)
        changed = asyncio.Event()
        sides = [Side(chr(97 + n), batch, changed) for n, batch in enumerate(case.batches)]
        acts = [self.carry_out(side) for side in sides]
        if case.deadline_passes:
            sides.append(Side("the", [], changed))
            acts.append(self.pass_deadline(sides[-1]))
        if case.is_locked:
            sides.append(Side("the other session", [], changed))
            acts.append(self.lock_row(sides[-1], case.is_locked))
        async with asyncio.TaskGroup() as group:
            for act in acts:
                group.create_task(act)
            while waiting := await self.settled(sides, changed):
                place = len(order.steps)
                for side in sides:
                    if side.has_ended and side.ended is None:
                        side.ended = place
                order.choose(waiting).go_on(place)
        return await self.unexplained(case, [side for side in sides if side.commands])

    async def carry_out(self, side: Side) -> None:
        ledger = Ledger(self.database, Stepped(self.strategy, side, self.clock), EAGER)
        try:
            side.outcomes = await ledger.execute(side.commands)
        except ServiceError as error:
            side.outcomes = error
        except NeedsSplitting:  # these batches have no command that could be split off
            side.outcomes = InternalError("to be split")
        finally:
            side.end()

    async def pass_deadline(self, side: Side) -> None:
        await side.turn("deadline passes")
        await self.clock.set(START + LATER)
        side.end()

    async def lock_row(self, side: Side, sku: str) -> None:
        async with session(self.database) as transaction:
            side.process_id = driver_of(transaction.connection).get_server_pid()
            await side.turn("locks")
            await transaction.connection.execute(LOCK, {"sku": sku})
            await side.turn("unlocks")
        side.end()

    async def settled(self, sides: list[Side], changed: asyncio.Event) -> list[Side]:
        """Wait until every side awaits its turn or a lock, or has ended; return the first kind."""
        async with asyncio.timeout(30):
            while True:
                changed.clear()
                waiting = [side for side in sides if side.step]
                running = [side for side in sides if not side.step and not side.has_ended]
                if not running or (waiting and await self.are_blocked(running)):
                    return waiting
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.003):
                        await changed.wait()

    async def are_blocked(self, sides: list[Side]) -> bool:
        """True when each of these sides waits for a lock in PostgreSQL, which must be polled."""
        if not all(side.process_id for side in sides):
            return False
        return await self.connection.fetchval(
            "SELECT bool_and(cardinality(pg_blocking_pids(id)) > 0) FROM unnest($1::int[]) AS id",
            [side.process_id for side in sides],
        )

    async def unexplained(self, case: Case, sides: list[Side]) -> str | None:
        """None if no deadlock occurred, the books balance and a serial order explains the rows."""
        if drift := (await audit(self.database, seconds_max=30)).drift:
            return f"the books drift: {drift}"
        for side in sides:
            if side.is_deadlocked:
                return f"{side.name} was chosen to end a deadlock"
            if isinstance(side.outcomes, ServiceError):
                return f"{side.name} was answered {side.outcomes.code}"
        for serial in orders_of_commands(sides):
            model = Model()
            model.limits = {"us": case.limits}
            for number, command in enumerate(case.before):
                model.execute(command, START + number * MICROSECOND)
            if all(
                told(side.outcomes[place]) == model.execute(side.commands[place], at)
                for side, place in serial
                if (at := moment_of(side, place))
            ) and await self.equals(model):
                return None
        answers = {side.name: [told(each) for each in side.outcomes] for side in sides}
        return f"no serial order explains {answers}"

    async def equals(self, model: Model) -> bool:
        """True when the tables have the same rows as the model."""
        wanted = Wanted(reservations=set(model.reservations), stock=set(model.stock))

        async def read(connection: AsyncConnection) -> tuple[Snapshot, list[tuple[Any, ...]]]:
            snapshot = await reads.load(connection, wanted)
            rows = await connection.execute(MOVEMENTS)
            return snapshot, sorted(tuple(row) for row in rows)

        snapshot, movements = await self.database.read(read)
        return (
            {key: seen(row) for key, row in snapshot.stock.items()} == model.stock
            and {id_: seen(row) for id_, row in snapshot.reservations.items()} == model.reservations
            and movements == sorted(model.movements, key=lambda movement: movement[:3])
        )


EAGER = RetryPolicy(attempts_max=20, wait_first_seconds=0, seconds_max=60)
"""Attempts follow each other without a pause, because the order decides when each one begins."""

LOCK = text("SELECT 1 FROM stock WHERE sku = :sku FOR UPDATE")

MOVEMENTS = text(
    "SELECT sku, location, version, kind, available_delta, held_delta, reservation_id,"
    " reservation_version FROM movement ORDER BY sku, location, version"
)


def orders_of_commands(sides: list[Side]) -> Iterator[tuple[tuple[Side, int], ...]]:
    """Each order of all commands in which a batch that ended before another began comes first."""
    commands = [(side, place) for side in sides for place in range(len(side.commands))]
    for serial in itertools.permutations(commands):
        if not any(
            after.ended is not None and before.began is not None and after.ended <= before.began
            for (before, _), (after, _) in itertools.combinations(serial, 2)
        ):
            yield serial


def moment_of(side: Side, place: int) -> datetime:
    """The time of a command: that of its read, or that of its write if it has a deadline."""
    command = side.commands[place]
    is_bound = isinstance(command, Confirm | Cancel | Extend) and side.applied_at
    return (side.applied_at if is_bound else side.read_at) + place * MICROSECOND


@asynccontextmanager
async def open_stage(
    database_url: str, strategy: str, monkeypatch: pytest.MonkeyPatch, clock: str = CLOCK
) -> AsyncIterator[Stage]:
    """A stage in an empty database; every statement reads its clock."""
    for module in (reads, writes):
        monkeypatch.setattr(module, "_STATEMENTS", {})
    monkeypatch.setattr(reads, "OVERDUE", reads.OVERDUE.replace(reads.CLOCK, clock))
    monkeypatch.setattr(reads, "CLOCK", clock)
    monkeypatch.setattr(writes, "CLOCK", clock)
    connection = await asyncpg.connect(as_superuser(database_url))
    database = Database(database_url, pool_size=6, timeouts=PATIENCE)
    try:
        await connection.execute(PREPARE)
        yield Stage(database, connection, strategy)
    finally:
        await database.close()
        await connection.close()


async def wrong_orders(stage: Stage, case: Case) -> AsyncIterator[str | None]:
    """For each order of the case's steps, a description of the error, or None."""
    for order in every_order():
        finding = await stage.play(case, order)
        yield finding and f"{', '.join(order.steps)}: {finding}"
