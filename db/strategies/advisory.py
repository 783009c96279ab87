"""`advisory`: a lock by name inside PostgreSQL, on rows that need not exist yet.

The lock ends with the transaction, so no crash can leave one behind. Every writer must take it; a
writer that does not is caught by the version.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.arrays import unnest
from db.ledger.load import WANTED_KEYS, key_parameters, load
from db.rows import Snapshot, Wanted
from db.strategies.strategy import Strategy

LOCK = text(f"""
    SELECT count(pg_advisory_xact_lock(hash))
    FROM (
        SELECT hashtextextended(name, 0) AS hash
        FROM (
            SELECT 'stock/' || sku || '/' || location FROM ({WANTED_KEYS}) AS wanted
            UNION
            SELECT 'reservation/' || id FROM {unnest("ids uuid")} AS id
            UNION
            SELECT 'reservation/' || id FROM {unnest("own_ids uuid")} AS id
        ) AS named(name)
        ORDER BY hash
        OFFSET 0
    ) AS ordered
""")
"""All names in one statement, in the order of their hashes, so that two batches can't deadlock."""


class Advisory(Strategy):
    """A named lock for each reservation and stock row, taken in order; behind it, versions."""

    name = "advisory"
    pins_rows = True

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:  # noqa: ARG002
        """Return the snapshot, taken when all its names are locked."""
        await connection.execute(LOCK, key_parameters(wanted))
        return await load(connection, wanted)
