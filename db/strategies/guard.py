"""`guard`, the default: read without locks and let the guarded update be the judge."""

from contextlib import AbstractAsyncContextManager, nullcontext

from sqlalchemy.ext.asyncio import AsyncConnection

from db.database import Transaction
from db.reads import load, lock
from db.rows import Snapshot, Wanted, Writes
from db.writes import apply


class Guard:
    """Optimistic, by condition: an accepted take holds as long as there are units enough."""

    name = "guard"
    isolation = "READ COMMITTED"

    def hold(self, wanted: Wanted) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        """Keep others out from before the transaction until after it: not needed here."""
        return nullcontext()

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:
        """Return the snapshot; `locked`, after lost races, with its rows FOR UPDATE."""
        if locked:
            await lock(connection, wanted)
        return await load(connection, wanted)

    async def apply(self, transaction: Transaction, writes: Writes) -> None:
        """Write with the guards the plan asked for, or raise `Conflict`."""
        await apply(transaction, writes)
