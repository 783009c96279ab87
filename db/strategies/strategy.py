"""The interface of all strategies, with the behaviour that most of them share.

A strategy can keep other transactions away at four points: before the transaction, by its isolation
level, while it loads, and while it applies.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.apply import apply
from db.ledger.load import load, lock
from db.rows import Snapshot, StockKey, Wanted, Writes
from db.session.database import Conflict, Database, Transaction


@dataclass(slots=True)
class HeldLocks:
    """The locks outside the database that are held around one transaction."""

    fences: Mapping[StockKey, int] = field(default_factory=dict)
    """For each stock row a number that grows from one holder of its lock to the next."""
    is_lost: bool = False
    """True when a lock is known to be lost: nothing may be written from then on."""


class Strategy:
    """Reads without locks and writes with the guards that the plan asks for."""

    name: str
    isolation = "READ COMMITTED"
    pins_rows = False
    """True if every stock row that a plan changes must still have the version that was seen."""

    @asynccontextmanager
    async def hold(self, database: Database, wanted: Wanted) -> AsyncIterator[HeldLocks]:  # noqa: ARG002
        """Hold locks from before the transaction until after it; by default there are none."""
        yield HeldLocks()

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:
        """Return the snapshot; with `locked`, after lost races, its rows are taken FOR UPDATE."""
        if locked:
            await lock(connection, wanted)
        return await load(connection, wanted)

    async def apply(self, transaction: Transaction, writes: Writes, held: HeldLocks) -> None:
        """Write with the plan's guards and the locks' fences, or raise `Conflict`."""
        if held.is_lost:
            raise Conflict("lock_lost")
        if held.fences:
            writes.stock_changed = [
                change._replace(fence=held.fences.get((change.sku, change.location)))
                for change in writes.stock_changed
            ]
        await apply(transaction, writes)

    async def close(self) -> None:
        """Close the connections that the strategy keeps open; by default there are none."""
