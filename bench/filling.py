"""Fills a database as years of use do: stock rows, stored reservations and balanced books.

Set-based SQL inserts the rows without keys and indexes. These are built afterwards from the
definitions in the catalogs. Reservation n takes one unit of SKU `(n - 1) % skus + 1`. Its id is an
MD5 of its seq. It is as random as the ids that the service derives, so that the indexes have the
same size and distribution.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

TABLES = ("stock", "reservation", "reservation_line", "movement")
UNITS = 1_000_000_000  # of each SKU: no SKU is ever sold out
SOURCE = "admin"  # also the source of the load, so that this source has a long history
ROWS_AT_ONCE = 50_000  # about a second of work: often enough for a progress bar

FillingProgress = Callable[[str, int, int], None]
"""Receives the progress: the name of the step, the number of finished items and their total."""

NUMBERS = "generate_series($3::bigint, $4::bigint) AS number"

# The parameters of each statement: SKUs, reservations, the first and the last number to insert.
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
# The reservations were made one second apart, after the stock.
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

# Both return the name of each object and the statements that drop it and create it again.
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


async def fill(url: str, skus: int, reservations: int, progress: FillingProgress) -> None:
    """Fill a migrated database without stock; vacuum it and write it to disk."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET maintenance_work_mem = '512MB'")
        # After a crash the database is filled again; the CHECKPOINT writes everything to disk.
        await connection.execute("SET synchronous_commit = off")
        async with _without_indexes(connection, progress):
            counts = (skus, reservations)
            await _insert(connection, "stock", STOCK, counts, skus, progress)
            await _insert(connection, "reservations", RESERVATIONS, counts, reservations, progress)
        await settle(connection, progress)
    finally:
        await connection.close()


async def settle(connection: Any, progress: FillingProgress) -> None:
    """Vacuum, analyze and write everything to disk, so that no work is left for later."""
    for number, table in enumerate(TABLES):
        progress("VACUUM ANALYZE", number, len(TABLES))
        await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.execute("CHECKPOINT")
    progress("VACUUM ANALYZE", len(TABLES), len(TABLES))


async def sizes(url: str) -> list[dict[str, Any]]:
    """Return the number of rows of each table, and the bytes of the table and its indexes."""
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(SIZES, TABLES)]
    finally:
        await connection.close()


@asynccontextmanager
async def _without_indexes(connection: Any, progress: FillingProgress) -> AsyncIterator[None]:
    """Drop keys and indexes for the block, and build them at its end."""
    parts = [
        *await connection.fetch(CONSTRAINTS, TABLES),
        *await connection.fetch(INDEXES, TABLES),
    ]
    for part in parts:
        await connection.execute(part["dropped"])
    yield
    for number, part in enumerate(parts):
        progress("indexes", number, len(parts))
        await connection.execute(part["made"])
    progress("indexes", len(parts), len(parts))


async def _insert(
    connection: Any,
    name: str,
    statements: tuple[str, ...],
    counts: tuple[int, int],
    total: int,
    progress: FillingProgress,
) -> None:
    for first in range(1, total + 1, ROWS_AT_ONCE):
        last = min(total, first + ROWS_AT_ONCE - 1)
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement, *counts, first, last)
        progress(name, last, total)
