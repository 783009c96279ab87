"""`serializable`: PostgreSQL watches all reads and aborts one where two conflict (40001).

Here a transaction takes its snapshot once, with its first query. `db.queries.source_limits` relies
on a lock that is older than the snapshot, so the lock is taken before that.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.rows import Snapshot, Wanted
from db.strategies.strategy import Strategy

LOCK = "LOCK TABLE source_limit IN ACCESS SHARE MODE"


class Serializable(Strategy):
    """Serializable snapshot isolation (Cahill, Röhm, Fekete: SIGMOD 2008)."""

    name = "serializable"
    isolation = f"SERIALIZABLE; {LOCK}"
    """In a shared session, BEGIN is followed by a query: the lock comes before it."""

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:
        """Return the snapshot. A transaction that the last COMMIT has begun has no lock yet."""
        await connection.execute(text(LOCK))
        return await super().load(connection, wanted, locked=locked)
