"""`advisory`: a lock by name inside PostgreSQL, on rows that need not exist yet.

The lock ends with the transaction, so no crash can leave one behind. Everybody who writes must
take it; who does not is caught by the version.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.reads import load
from db.rows import Snapshot, Wanted
from db.strategies.guard import Guard
from db.strategies.names import names_of

LOCK = text("""
    SELECT pg_advisory_xact_lock(hash)
    FROM (
        SELECT DISTINCT hashtextextended(name, 0) AS hash
        FROM unnest(CAST(:names AS text[])) AS name
        ORDER BY hash
        OFFSET 0
    ) AS ordered
""")


class Advisory(Guard):
    """A named lock per reservation and stock row, taken in order, as `version` behind it."""

    name = "advisory"
    pins_rows = True

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:  # noqa: ARG002
        """Return the snapshot, taken when every name in it is locked."""
        locked_names: set[str] = set()
        names = names_of(wanted.reservations, wanted.stock)
        while True:
            await connection.execute(LOCK, {"names": sorted(names - locked_names)})
            locked_names |= names
            snapshot = await load(connection, wanted)
            names = names_of(snapshot.reservations, snapshot.stock)
            if names <= locked_names:
                return snapshot
