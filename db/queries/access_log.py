"""The access log: entries are added, counted, listed, and deleted after 90 days."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.arrays import arrays, unnest
from db.models import AccessLogTable
from db.queries.lists import Conditions, filtered

KEPT_DAYS = 90


class Entry(NamedTuple):
    """An entry to write. A counted one is added to the entry that has its id already."""

    id: UUID
    at: datetime
    key_id: UUID | None
    source: str | None
    address: str | None
    method: str | None
    route: str | None
    status: int | None
    request_id: str | None
    requests: int
    is_counted: bool


COLUMNS = "id, at, key_id, source, address, method, route, status, request_id, count"
TYPES = (
    "uuid",
    "timestamptz",
    "uuid",
    "text",
    "text",
    "text",
    "text",
    "int",
    "text",
    "bigint",
    "bool",
)
PARAMETERS = [f"{name}s" for name in Entry._fields]
TYPED = [f"{name} {kind}" for name, kind in zip(PARAMETERS, TYPES, strict=True)]

# Counted entries are written in the order of their ids, so that two workers can't deadlock.
WRITE = text(f"""
    WITH entry AS (
        SELECT * FROM {unnest(*TYPED)} AS entry({COLUMNS}, is_counted)
    ), single AS (
        INSERT INTO access_log ({COLUMNS})
        SELECT {COLUMNS} FROM entry WHERE NOT is_counted
        ON CONFLICT (id) DO NOTHING
    )
    INSERT INTO access_log AS stored ({COLUMNS})
    SELECT {COLUMNS} FROM entry WHERE is_counted ORDER BY id
    ON CONFLICT (id) DO UPDATE SET count = stored.count + excluded.count
""")

DELETE_OLD = text(f"""
    DELETE FROM access_log WHERE id IN (
        SELECT id FROM access_log WHERE at < now() - interval '{KEPT_DAYS} days'
        ORDER BY at, id LIMIT :rows_max FOR UPDATE SKIP LOCKED
    )
""")


async def write(connection: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Write entries; a single one whose id exists was written before and is left as it is."""
    values = arrays(entries, len(PARAMETERS))
    await connection.execute(WRITE, dict(zip(PARAMETERS, values, strict=True)))


async def delete_old(connection: AsyncConnection, rows_max: int) -> int:
    """Delete the oldest of the entries that are kept no longer; return how many there were."""
    return (await connection.execute(DELETE_OLD, {"rows_max": rows_max})).rowcount


async def entries(
    connection: AsyncConnection,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    key_id: UUID | None = None,
    source: str | None = None,
    status: int | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return at most `limit` entries that followed the one at `after`, in the order of time."""
    table = AccessLogTable
    statement = select(*table.__table__.columns).order_by(table.at, table.id).limit(limit)
    conditions: Conditions = [
        (after, lambda value: tuple_(table.at, table.id) > value),
        (key_id, lambda value: table.key_id == value),
        (source, lambda value: table.source == value),
        (status, lambda value: table.status == value),
        (created_after, lambda value: table.at > value),
        (created_before, lambda value: table.at < value),
    ]
    return (await connection.execute(filtered(statement, conditions))).all()
