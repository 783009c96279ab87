"""The ledger: load → plan → apply in one transaction, repeated when a race was lost.

It raises a `ServiceError` that holds for the whole batch, or `NeedsSplitting` if parts of it may
succeed. In both cases nothing was written, except after `OutcomeUnknown`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from db.ledger.load import load, locked_elsewhere
from db.rows import Snapshot, Wanted
from db.session import database as db
from db.strategies.strategy import Strategy
from service import metrics
from service.domain.commands import Command, Done, Outcome, verdict_of, wanted_by
from service.domain.errors import (
    Contention,
    InternalError,
    OutcomeUnknown,
    ServiceError,
    Unavailable,
)
from service.domain.planner import Plan, plan
from service.engine.contention import LostRows
from service.engine.retry import RetryBudget, RetryPolicy

log = structlog.get_logger()

LARGE_ROWS = 5_000  # stock rows that a batch names; only imports and the largest batches have more
LARGE_SECONDS_MAX = 60.0  # for a transaction of that size; one of 4 MiB of CSV took 16


class NeedsSplitting(Exception):
    """The batch can't be carried out as a whole, but parts of it may."""

    def __init__(self, blocked: set[Any]) -> None:
        super().__init__("split the batch")
        self.blocked = blocked
        """Ids and stock keys that another session has locked; empty if there was another reason."""


class Ledger:
    """The only way in which stock changes."""

    def __init__(
        self, database: db.Database, strategy: Strategy, policy: RetryPolicy | None = None
    ) -> None:
        self.database = database
        self.strategy = strategy
        self.policy = policy or RetryPolicy()
        self.budget = RetryBudget(self.policy)
        self.lost_rows = LostRows()

    async def execute(
        self, commands: Sequence[Command[Any]], more_wait: Callable[[], bool] = lambda: False
    ) -> list[Outcome[Any]]:
        """Carry the commands out, in order, and return the outcome of each once it is durable.

        `more_wait` is called before COMMIT; it returns True if the caller calls again at once.
        """
        started = time.monotonic()
        metrics.BATCH_SIZE.observe(len(commands))
        try:
            give_up_at = started + self.policy.seconds_max
            outcomes = await self._retry(commands, more_wait, give_up_at)
        except (ServiceError, NeedsSplitting):
            raise
        except db.StoreUnavailable as error:
            raise Unavailable(str(error)) from error
        except db.CommitUnknown as error:
            raise OutcomeUnknown("The connection to the database broke at COMMIT.") from error
        except Exception as error:
            if len(commands) > 1:
                raise NeedsSplitting(set()) from error
            log.exception("command_failed", command=type(commands[0]).__name__)
            raise InternalError("The service failed while it carried out the request.") from error
        metrics.TRANSACTION_SECONDS.observe(time.monotonic() - started)
        self.budget.earn(len(commands))
        _count(commands, outcomes)
        return outcomes

    async def _retry(
        self, commands: Sequence[Command[Any]], more_wait: Callable[[], bool], give_up_at: float
    ) -> list[Outcome[Any]]:
        for attempt in range(1, self.policy.attempts_max + 1):
            try:
                locked = attempt > self.policy.lock_after_attempts
                return await self._attempt(commands, more_wait, locked=locked)
            except db.Conflict as conflict:
                lost = conflict.kind, self.lost_rows.classify(wanted_by(commands).stock)
                metrics.CONFLICTS.labels(*lost).inc()
                if isinstance(conflict, db.LockTimeout) and len(commands) > 1:
                    raise NeedsSplitting(await self._blocked(commands)) from conflict
            if attempt == self.policy.attempts_max or time.monotonic() > give_up_at:
                break
            if not self.budget.spend():
                metrics.RETRIES_REFUSED.inc()
                raise Contention(
                    "The process has no retries left for now; send the request again later.",
                    attempts=attempt,
                )
            metrics.RETRIES.labels(*lost).inc()
            await asyncio.sleep(self.policy.wait_seconds(attempt))
        raise Contention(
            "Every attempt lost its race for the stock; send the request again later.",
            attempts=attempt,
        )

    async def _attempt(
        self, commands: Sequence[Command[Any]], more_wait: Callable[[], bool], *, locked: bool
    ) -> list[Outcome[Any]]:
        wanted = wanted_by(commands)

        async def work(transaction: db.Transaction) -> list[Outcome[Any]]:
            connection = transaction.connection
            snapshot = await self.strategy.load(connection, wanted, locked=locked)
            planned = await self._plan(snapshot, commands)
            while planned.lacking:
                wanted.overdue |= planned.lacking
                snapshot = await self.strategy.load(connection, wanted, locked=locked)
                planned = await self._plan(snapshot, commands)
            if planned.writes:
                await self.strategy.apply(transaction, planned.writes, held)
            else:
                transaction.is_empty = True
                if any(map(_relies_on_a_commit, planned.outcomes)):
                    await db.wait_for_standby(transaction)
            return planned.outcomes

        async with self.strategy.hold(self.database, wanted) as held:
            return await self.database.transact(
                work,
                isolation=self.strategy.isolation,
                timeout_seconds=LARGE_SECONDS_MAX if _is_large(wanted) else None,
                chain_if=more_wait,
            )

    async def _plan(self, snapshot: Snapshot, commands: Sequence[Command[Any]]) -> Plan:
        """Plan the batch; a large one in a thread, so that the event loop stays responsive."""
        pins_rows = self.strategy.pins_rows
        if len(snapshot.stock) + len(commands) < LARGE_ROWS:
            return plan(snapshot, commands, pins_rows=pins_rows)
        return await asyncio.to_thread(plan, snapshot, commands, pins_rows=pins_rows)

    async def _blocked(self, commands: Sequence[Command[Any]]) -> set[Any]:
        """The ids, stock keys and sources of these commands that other sessions have locked."""

        async def work(transaction: db.Transaction) -> tuple[Snapshot, set[Any]]:
            snapshot = await load(transaction.connection, wanted_by(commands))
            return snapshot, await locked_elsewhere(transaction.connection, snapshot)

        snapshot, blocked = await self.database.transact(work)
        return blocked | {
            reservation.id
            for reservation in snapshot.reservations.values()
            if reservation.source in blocked
            or any(line.key in blocked for line in reservation.lines)
        }


def _relies_on_a_commit(outcome: Outcome[Any]) -> bool:
    """True if the outcome shows an earlier transaction, which the standby may not have yet."""
    return isinstance(outcome, Done) or outcome.replayed


def _is_large(wanted: Wanted) -> bool:
    return len(wanted.stock) > LARGE_ROWS


def _count(commands: Sequence[Command[Any]], outcomes: list[Outcome[Any]]) -> None:
    counts: dict[tuple[str, str], int] = {}
    for command, outcome in zip(commands, outcomes, strict=True):
        key = (type(command).__name__, verdict_of(outcome))
        counts[key] = counts.get(key, 0) + 1
    for (name, label), count in counts.items():
        metrics.OUTCOMES.labels(name, label).inc(count)
