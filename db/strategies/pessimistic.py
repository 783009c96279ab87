"""`pessimistic`: SELECT … FOR UPDATE before anything is decided.

Rows are locked by primary key only and in order; `lock_timeout` bounds the wait. A new reservation
has no row to lock: its unique keys keep equal ones apart, as always.
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.load import load, lock
from db.rows import Snapshot, Wanted
from db.strategies.guard import Guard


class Pessimistic(Guard):
    """Lock first, then read; nobody changes what the plan is made from."""

    name = "pessimistic"

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:  # noqa: ARG002
        """Return the snapshot, its rows FOR UPDATE."""
        await lock(connection, wanted)
        return await load(connection, wanted)
