"""A database that has been in use: stock rows, stored reservations, and books that balance.

Rows are made by set-based SQL while there are no keys and indexes, which are built afterwards from
the definitions that the catalogs gave. Reservation n takes one unit of SKU `(n - 1) % skus + 1` and
its id is an MD5 of its seq: as random as the ids that the service derives, so that its indexes are
as large and as scattered.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

TABLES = ("stock", "reservation", "reservation_line", "movement")
UNITS = 1_000_000_000  # of each SKU: nothing is ever sold out
SOURCE = "admin"  # as the load's, which is then a caller with a long history
ROWS_AT_ONCE = 50_000  # a second or so of work: often enough for a progress bar

Told = Callable[[str, int, int], None]
"""Is told of progress: what is being done, how many of how many are done."""

NUMBERS = "generate_series($3::bigint, $4::bigint) AS number"

# Parameters of each: SKUs, reservations, the first and the last number to make.
SHELVES = f"""
    SELECT 'S' || number AS sku, ($2::bigint - number + $1::bigint) / $1::bigint AS taken,
           now() - interval '1 second' * ($2::bigint + 1) AS created_at
    FROM {NUMBERS}
"""
STOCK = (
    f"""
    INSERT INTO stock (sku, location, available, held, version, created_at, updated_at)
    SELECT sku, 'main', {UNITS} - taken, 0, 1 + taken, created_at, created_at
    FROM ({SHELVES}) AS shelf
    """,
    f"""
    INSERT INTO movement (sku, location, version, kind, available_delta, held_delta, created_at)
    SELECT sku, 'main', 1, 'import', {UNITS}, 0, created_at FROM ({SHELVES}) AS shelf
    """,
)
# They came one after another, a second apart, when all stock was there.
MADE = f"""
    SELECT number, 'stored-' || number AS seq, md5('stored-' || number)::uuid AS id,
           'S' || ((number - 1) % $1::bigint + 1) AS sku, 2 + (number - 1) / $1::bigint AS version,
           now() - interval '1 second' * ($2::bigint - number + 1) AS created_at
    FROM {NUMBERS}
"""
RESERVATIONS = (
    f"""
    INSERT INTO reservation (id, source, seq, state, version, metadata, created_at, updated_at)
    SELECT id, '{SOURCE}', seq, 'confirmed', 1, '{{}}', created_at, created_at
    FROM ({MADE}) AS made
    """,
    f"""
    INSERT INTO reservation_line (reservation_id, sku, location, quantity, confirmed, refunded)
    SELECT id, sku, 'main', 1, 1, 0 FROM ({MADE}) AS made
    """,
    f"""
    INSERT INTO movement (sku, location, version, kind, available_delta, held_delta,
                          reservation_id, reservation_version, created_at)
    SELECT sku, 'main', version, 'reserve', -1, 0, id, 1, created_at FROM ({MADE}) AS made
    """,
)

# Both name what there is, how it is taken away and how it is made again.
CONSTRAINTS = """
    SELECT conname AS name,
           format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS dropped,
           format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
                  pg_get_constraintdef(oid)) AS made
    FROM pg_constraint WHERE conrelid = ANY($1::text[]::regclass[]) AND contype IN ('p', 'u')
    ORDER BY conname
"""
INDEXES = """
    SELECT indexname AS name, format('DROP INDEX %I.%I', schemaname, indexname) AS dropped,
           indexdef AS made
    FROM pg_indexes WHERE tablename = ANY($1::text[]) AND schemaname = current_schema()
        AND indexname NOT IN (SELECT conname FROM pg_constraint WHERE contype IN ('p', 'u'))
    ORDER BY indexname
"""
SIZES = """
    SELECT relname AS table, reltuples::bigint AS rows, pg_table_size(oid) AS heap_bytes,
           pg_indexes_size(oid) AS index_bytes
    FROM pg_class WHERE oid = ANY($1::text[]::regclass[]) ORDER BY relname
"""


async def fill(url: str, skus: int, reservations: int, told: Told) -> None:
    """Fill a migrated database that has no stock yet, and leave it vacuumed and on disk."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET maintenance_work_mem = '512MB'")
        # What a crash would lose is made again; the CHECKPOINT has all of it on disk.
        await connection.execute("SET synchronous_commit = off")
        async with _without_indexes(connection, told):
            counts = (skus, reservations)
            await _insert(connection, "stock", STOCK, counts, skus, told)
            await _insert(connection, "reservations", RESERVATIONS, counts, reservations, told)
        await settle(connection, told)
    finally:
        await connection.close()


async def settle(connection: Any, told: Told) -> None:
    """Vacuum, gather statistics and write everything to disk: nothing is owed any more."""
    for place, table in enumerate(TABLES):
        told("VACUUM ANALYZE", place, len(TABLES))
        await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.execute("CHECKPOINT")
    told("VACUUM ANALYZE", len(TABLES), len(TABLES))


async def sizes(url: str) -> list[dict[str, Any]]:
    """Return how many rows each table has, and the bytes of it and of its indexes."""
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(SIZES, TABLES)]
    finally:
        await connection.close()


@asynccontextmanager
async def _without_indexes(connection: Any, told: Told) -> AsyncIterator[None]:
    """Take keys and indexes away for the block, and build them all at its end."""
    parts = [
        *await connection.fetch(CONSTRAINTS, TABLES),
        *await connection.fetch(INDEXES, TABLES),
    ]
    for part in parts:
        await connection.execute(part["dropped"])
    yield
    for place, part in enumerate(parts):
        told("indexes", place, len(parts))
        await connection.execute(part["made"])
    told("indexes", len(parts), len(parts))


async def _insert(
    connection: Any,
    name: str,
    statements: tuple[str, ...],
    counts: tuple[int, int],
    total: int,
    told: Told,
) -> None:
    for first in range(1, total + 1, ROWS_AT_ONCE):
        last = min(total, first + ROWS_AT_ONCE - 1)
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement, *counts, first, last)
        told(name, last, total)
