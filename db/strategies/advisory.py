"""`advisory`: a lock by name inside PostgreSQL, on rows that need not exist yet.

The lock ends with the transaction, so no crash can leave one behind. Everybody who writes must
take it; who does not is caught by the version.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.arrays import unnest
from db.ledger.load import WANTED_KEYS, key_parameters, load
from db.rows import Snapshot, Wanted
from db.strategies.guard import Guard

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
"""All names in one statement and in one order, that of their hashes, lest two batches cross."""


class Advisory(Guard):
    """A named lock per reservation and stock row, taken in order, as `version` behind it."""

    name = "advisory"
    pins_rows = True

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:  # noqa: ARG002
        """Return the snapshot, taken when every name in it is locked."""
        await connection.execute(LOCK, key_parameters(wanted))
        return await load(connection, wanted)
