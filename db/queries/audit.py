"""The audit: checks in one snapshot that stock rows, ledger and reservations agree."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session.database import Database, StoreUnavailable, allow_scans

LOCK = 0x61756469  # "audi": the key of the advisory lock that an audit takes
WAIT_SECONDS = 0.1  # between two checks whether another audit has ended
DRIFT_MAX = 100
"""The number of findings that are reported for each rule; more would not help."""

RULES = {
    "stock equals its movements": """
        SELECT sku, location, NULL::uuid AS reservation_id,
               format('available %s, held %s, version %s', coalesce(sum(available_delta), 0),
                      coalesce(sum(held_delta), 0), count(movement)) AS expected,
               format('available %s, held %s, version %s', stock.available, stock.held,
                      stock.version) AS found
        FROM stock FULL JOIN movement USING (sku, location)
        GROUP BY sku, location, stock.sku, stock.available, stock.held, stock.version
        HAVING stock.sku IS NULL
            OR coalesce(sum(available_delta), 0) <> stock.available
            OR coalesce(sum(held_delta), 0) <> stock.held
            OR count(movement) <> stock.version
    """,
    "held equals the lines of open holds": """
        SELECT sku, location, NULL::uuid AS reservation_id,
               format('held %s', coalesce(open.held, 0)) AS expected,
               format('held %s', coalesce(stock.held, 0)) AS found
        FROM stock FULL JOIN (
            SELECT sku, location, sum(quantity) AS held
            FROM reservation_line JOIN reservation ON reservation.id = reservation_id
            WHERE state = 'held'
            GROUP BY sku, location
        ) AS open USING (sku, location)
        WHERE coalesce(open.held, 0) <> coalesce(stock.held, 0)
    """,
    "a reservation's movements sum to its state": """
        SELECT sku, location, reservation_id,
               format('%s: available %s, held %s', coalesce(state, 'no reservation'),
                      coalesce(available, 0), coalesce(held, 0)) AS expected,
               format('available %s, held %s', coalesce(available_sum, 0),
                      coalesce(held_sum, 0)) AS found
        FROM (
            SELECT line.reservation_id, sku, location, reservation.state,
                   CASE WHEN state = 'held' THEN -quantity
                        WHEN state IN ('confirmed', 'refunded') THEN refunded - confirmed
                        ELSE 0 END AS available,
                   CASE WHEN state = 'held' THEN quantity ELSE 0 END AS held
            FROM reservation_line AS line JOIN reservation ON reservation.id = line.reservation_id
        ) AS told FULL JOIN (
            SELECT reservation_id, sku, location,
                   sum(available_delta) AS available_sum, sum(held_delta) AS held_sum
            FROM movement WHERE reservation_id IS NOT NULL
            GROUP BY reservation_id, sku, location
        ) AS moved USING (reservation_id, sku, location)
        WHERE coalesce(available, 0) <> coalesce(available_sum, 0)
            OR coalesce(held, 0) <> coalesce(held_sum, 0)
            OR told.state IS NULL
    """,
    "refunded equals the lines of refunds": """
        SELECT sku, location, reservation_id,
               format('refunded %s', coalesce(given.quantity, 0)) AS expected,
               format('refunded %s', coalesce(refunded, 0)) AS found
        FROM reservation_line FULL JOIN (
            SELECT reservation_id, sku, location, sum(quantity) AS quantity
            FROM refund_line GROUP BY reservation_id, sku, location
        ) AS given USING (reservation_id, sku, location)
        WHERE coalesce(given.quantity, 0) <> coalesce(refunded, 0)
    """,
    "the use of a source's limits equals its open holds": """
        SELECT NULL AS sku, NULL AS location, NULL::uuid AS reservation_id, source,
               format('open holds %s, units %s', coalesce(open.holds, 0), coalesce(open.units, 0))
                   AS expected,
               format('open holds %s, units %s', open_holds, held_units) AS found
        FROM source_limit LEFT JOIN (
            SELECT source, count(DISTINCT reservation.id) AS holds, sum(quantity) AS units
            FROM reservation JOIN reservation_line ON reservation_id = reservation.id
            WHERE state = 'held'
            GROUP BY source
        ) AS open USING (source)
        WHERE tracking = 'on'
            AND (coalesce(open.holds, 0) <> open_holds OR coalesce(open.units, 0) <> held_units)
    """,
    "a refunded reservation has nothing left": """
        SELECT NULL AS sku, NULL AS location, reservation.id AS reservation_id,
               CASE WHEN sum(confirmed - refunded) = 0 THEN 'refunded' ELSE 'confirmed' END
                   AS expected,
               reservation.state AS found
        FROM reservation LEFT JOIN reservation_line AS line ON line.reservation_id = reservation.id
        WHERE state IN ('confirmed', 'refunded')
        GROUP BY reservation.id
        HAVING coalesce((sum(confirmed - refunded) = 0) <> (state = 'refunded'), true)
    """,
}


@dataclass(slots=True)
class Audit:
    """The number of rows that were checked, and the findings."""

    stock: int
    reservations: int
    drift: list[dict[str, Any]] = field(default_factory=list)


async def audit(database: Database, *, seconds_max: int) -> Audit:
    """Check every rule of the books in one snapshot (REPEATABLE READ).

    A database runs one audit at a time, on one of its processors; other audits wait. Raises
    `StoreUnavailable` when the wait and the audit take longer than `seconds_max`.
    """

    async def work(connection: AsyncConnection) -> Audit | None:
        if not await connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({LOCK})")):
            return None
        await allow_scans(connection)
        await connection.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        return await _check(connection)

    try:
        async with asyncio.timeout(seconds_max):
            while True:
                found = await database.read(
                    work, isolation="REPEATABLE READ", timeout_seconds=seconds_max
                )
                if found is not None:
                    return found
                await asyncio.sleep(WAIT_SECONDS)
    except TimeoutError as error:
        raise StoreUnavailable(f"the audit took longer than {seconds_max} s") from error


async def _check(connection: AsyncConnection) -> Audit:
    counts = (
        await connection.execute(
            text(
                "SELECT (SELECT count(*) FROM stock) AS stock,"
                " (SELECT count(*) FROM reservation) AS reservations"
            )
        )
    ).one()
    found = Audit(counts.stock, counts.reservations)
    for rule, select in RULES.items():
        rows = await connection.execute(text(f"{select} LIMIT {DRIFT_MAX}"))
        found.drift += [
            {"rule": rule}
            | {
                name: value if value is None else str(value)
                for name, value in row._mapping.items()
                if value is not None
            }
            for row in rows
        ]
    return found
