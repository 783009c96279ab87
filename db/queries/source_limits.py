"""The limits of sources: read, replaced, and the open holds of a source counted exactly.

A transaction adds the holds that it opens and ends to the use of a source if it has read that the
use is tracked. So the first limit is set in four steps. Each has its own transaction:

1. The row says `counting` (`replace`).
2. `transactions_that_may_have_missed_it` lists all transactions that hold a lock on the table. A
   transaction takes this lock for reading before it takes the snapshot in which it looks for the
   row, and keeps it until its end. So a transaction that has not seen the row is in the list, or
   has ended.
3. The caller waits until each of them has ended (`which_have_not_ended`).
4. `count` locks the row and then counts the open holds in a new snapshot. A transaction that has
   not seen the row has ended, so its changes are in the snapshot. Any other one changes the row. If
   it did so before the lock, it has ended too, since the lock waits for it. If not, it has not
   committed at the snapshot and adds its changes afterwards.

Each PUT raises the version of the row. `count` refuses another version than the caller has seen
before step 2, because the limits may have been removed and set again meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import SourceLimitTable
from db.queries.audit import LOCK as AUDIT_LOCK
from db.vocabulary import Tracking

LIMITS = ("open_holds_max", "held_units_max", "hold_seconds_max", "requests_per_second")


class LimitsAndUse(NamedTuple):
    """The limits of a source (None: no limit), and their use by its open holds."""

    source: str
    open_holds_max: int | None
    held_units_max: int | None
    hold_seconds_max: int | None
    requests_per_second: int | None
    tracking: str
    open_holds: int
    held_units: int
    version: int

    @property
    def has_quota(self) -> bool:
        """True if the open holds are limited, so that they must be tracked."""
        return (self.open_holds_max, self.held_units_max) != (None, None)


COLUMNS = tuple(getattr(SourceLimitTable, name) for name in LimitsAndUse._fields)

WRITERS = text(f"""
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE relation = CAST('source_limit' AS regclass) AND mode = 'AccessShareLock'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND pid <> pg_backend_pid()
        AND virtualtransaction NOT IN (
            SELECT virtualtransaction FROM pg_locks
            WHERE relation = CAST('alembic_version' AS regclass)
                OR (locktype = 'advisory' AND classid = 0 AND objid = {AUDIT_LOCK})
        )
""")
"""The transactions that have read the table, except those that never write: a backup, which locks
every table at once, and an audit. Both can take minutes."""

STILL_THERE = text("""
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE virtualtransaction = ANY(CAST(:transactions AS text[]))
""")

USED = """
    SELECT (SELECT count(*) FROM reservation WHERE state = 'held' AND source = :source)
               AS open_holds,
           (SELECT coalesce(sum(quantity), 0)
            FROM reservation JOIN reservation_line ON reservation_id = reservation.id
            WHERE state = 'held' AND source = :source) AS held_units
"""

LOCK = text("SELECT version, tracking FROM source_limit WHERE source = :source FOR UPDATE")

COUNT = text(f"""
    UPDATE source_limit
    SET open_holds = used.open_holds, held_units = used.held_units, tracking = 'on'
    FROM ({USED}) AS used
    WHERE source = :source
""")

ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('limits/' || :source, 0))")


async def find(connection: AsyncConnection, source: str) -> LimitsAndUse:
    """Return the limits of a source, all None if it has none, and their use."""
    found = await _stored(connection, source)
    if found.tracking == Tracking.ON:
        return found
    used = (await connection.execute(text(USED), {"source": source})).one()
    return found._replace(open_holds=used.open_holds, held_units=int(used.held_units))


async def list_all(connection: AsyncConnection) -> list[str]:
    """Return the sources that have limits, in order."""
    statement = select(SourceLimitTable.source).order_by(SourceLimitTable.source)
    return list(await connection.scalars(statement))


async def uncounted(connection: AsyncConnection) -> list[str]:
    """Return the sources whose open holds must still be counted."""
    statement = select(SourceLimitTable.source).where(
        SourceLimitTable.tracking == Tracking.COUNTING
    )
    return list(await connection.scalars(statement))


async def replace(
    connection: AsyncConnection, source: str, changes: Mapping[str, int | None]
) -> LimitsAndUse:
    """Change the named limits of a source and return all of them."""
    await connection.execute(ONE_AT_A_TIME, {"source": source})
    before = await _stored(connection, source, is_locked=True)
    given: dict[str, Any] = dict(changes)
    after = before._replace(**given)
    if after == before:
        return before
    after = _tracked(before, after._replace(version=before.version + 1))
    values = after._asdict()
    for name in ("open_holds", "held_units") if before.tracking == after.tracking else ():
        del values[name]  # other transactions may have changed them
    created = insert(SourceLimitTable).values(**after._asdict())
    await connection.execute(created.on_conflict_do_update(index_elements=["source"], set_=values))
    return after


def _tracked(before: LimitsAndUse, after: LimitsAndUse) -> LimitsAndUse:
    """The limits with the tracking that they need."""
    if not after.has_quota:
        return after._replace(tracking=Tracking.OFF)
    if before.tracking != Tracking.OFF:
        return after
    return after._replace(tracking=Tracking.COUNTING, open_holds=0, held_units=0)


async def transactions_that_may_have_missed_it(connection: AsyncConnection) -> Sequence[str]:
    """Return the transactions under way that may not have seen the present limits."""
    return list(await connection.scalars(WRITERS))


async def which_have_not_ended(
    connection: AsyncConnection, transactions: Sequence[str]
) -> Sequence[str]:
    """Return those of the transactions that have not ended."""
    return list(await connection.scalars(STILL_THERE, {"transactions": list(transactions)}))


async def count(connection: AsyncConnection, source: str, version: int) -> bool:
    """Count the open holds of a source, if its limits still have that version; True if so."""
    row = (await connection.execute(LOCK, {"source": source})).one_or_none()
    if row is None or row.version != version:
        return False
    if row.tracking == Tracking.COUNTING:
        await connection.execute(COUNT, {"source": source})
    return True


async def _stored(
    connection: AsyncConnection, source: str, *, is_locked: bool = False
) -> LimitsAndUse:
    statement = select(*COLUMNS).where(SourceLimitTable.source == source)
    if is_locked:
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is not None:
        return LimitsAndUse._make(row)
    return LimitsAndUse(source, None, None, None, None, Tracking.OFF, 0, 0, 0)
