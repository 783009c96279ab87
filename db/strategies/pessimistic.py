"""`pessimistic`: SELECT … FOR UPDATE before anything is decided.

Rows are locked by primary key only and in order; `lock_timeout` bounds the wait. A new reservation
has no row to lock: as always, its unique keys keep equal requests apart.
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.load import load, lock
from db.rows import Snapshot, Wanted
from db.strategies.strategy import Strategy


class Pessimistic(Strategy):
    """Lock first, then read: no other transaction changes the rows that the plan is made from."""

    name = "pessimistic"

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:  # noqa: ARG002
        """Return the snapshot, its rows FOR UPDATE."""
        await lock(connection, wanted)
        return await load(connection, wanted)
