"""`guard`, the default: read without locks and let the guarded update be the judge.

It is also the interface: the other strategies are this one, with something more in one of the four
places where others can be kept out.
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
class Held:
    """Locks outside the database that are held around one transaction."""

    fences: Mapping[StockKey, int] = field(default_factory=dict)
    """For each stock row a number that grows from holder to holder of its lock."""
    is_lost: bool = False
    """Set when a lock is known to be gone: then nothing may be written any more."""


class Guard:
    """Optimistic, by condition: an accepted take holds as long as there are units enough."""

    name = "guard"
    isolation = "READ COMMITTED"
    pins_rows = False
    """Whether every stock row a plan changes must still have the version that was seen."""

    @asynccontextmanager
    async def hold(self, database: Database, wanted: Wanted) -> AsyncIterator[Held]:  # noqa: ARG002
        """Keep others out from before the transaction until after it: not needed here."""
        yield Held()

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:
        """Return the snapshot; `locked`, after lost races, with its rows FOR UPDATE."""
        if locked:
            await lock(connection, wanted)
        return await load(connection, wanted)

    async def apply(self, transaction: Transaction, writes: Writes, held: Held) -> None:
        """Write with the guards the plan asked for, or raise `Conflict`."""
        if held.is_lost:
            raise Conflict("lock_lost")
        if held.fences:
            writes.stock_changed = [
                change._replace(fence=held.fences.get((change.sku, change.location)))
                for change in writes.stock_changed
            ]
        await apply(transaction, writes)

    async def close(self) -> None:
        """Let go of whatever the strategy keeps open."""
