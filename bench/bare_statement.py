"""The limit of the database: the ledger's set-based statement and COMMIT on one connection."""

import asyncio
import random
import statistics
import time
from datetime import UTC, datetime

from bench.load import Load, Measured
from db.ledger.apply import apply
from db.rows import Line, Movement, Reservation, StockChange, Writes
from db.session.database import Database, Transaction
from service.domain.identifiers import reservation_id


def measure(database_url: str, *, prefix: str, sent: Load, seconds: int) -> Measured:
    """Write batches of new reservations for some seconds; the time to build rows is excluded."""
    return asyncio.run(_measure(database_url, prefix, sent, seconds))


async def _measure(database_url: str, prefix: str, sent: Load, seconds: int) -> Measured:
    database = Database(database_url, pool_size=1)
    chance = random.Random(prefix)
    durations: list[float] = []
    try:
        while sum(durations) < seconds:
            writes = _batch(f"{prefix}/{len(durations)}", sent, chance)

            async def write(transaction: Transaction, writes: Writes = writes) -> None:
                await apply(transaction, writes)

            started = time.perf_counter()
            await database.transact(write)
            durations.append(time.perf_counter() - started)
    finally:
        await database.close()
    milliseconds = sorted(1000 * duration for duration in durations)
    return Measured(
        requests_per_second=len(durations) / sum(durations),
        p50_milliseconds=statistics.median(milliseconds),
        p99_milliseconds=milliseconds[int(0.99 * len(milliseconds))],
        refused=0,
        failed=0,
        answered=len(durations),
    )


def _batch(prefix: str, sent: Load, chance: random.Random) -> Writes:
    now = datetime.now(UTC)
    writes = Writes()
    taken: dict[str, int] = {}
    for number in range(sent.batch):
        sku, seq = f"S{chance.randint(1, sent.skus)}", f"{prefix}-{number}"
        taken[sku] = taken.get(sku, 0) + 1
        id_ = reservation_id("statement", seq)
        line = Line(sku, "main", 1, 1)
        writes.reservations_created.append(
            Reservation(
                id_, "statement", seq, "confirmed", 1, None, None, {}, None, now, now, (line,)
            )
        )
        writes.movements.append(Movement(sku, "main", taken[sku], "reserve", -1, 0, id_, 1, now))
    writes.reservations_created.sort()
    writes.stock_changed = [
        StockChange(sku, "main", -units, 0, -units, units, None, None, None, False, now)
        for sku, units in sorted(taken.items())
    ]
    return writes
