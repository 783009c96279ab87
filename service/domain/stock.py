"""The rules of stock itself: set, adjust, delete, import."""

from datetime import datetime

from db.rows import Adjustment, ImportJob, Line, Stock
from service.domain.books import Books, Row
from service.domain.commands import (
    AdjustStock,
    DeleteStock,
    Done,
    ImportStock,
    Outcome,
    SetStock,
    adjustment_id,
)
from service.domain.errors import (
    AdjustmentBelowZero,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    ServiceError,
    StockInUse,
    VersionMismatch,
)
from service.domain.reservations import mismatch, reclaim

AVAILABLE_MAX = 1_000_000_000_000
"""No row may hold more units that can be sold, in units."""


def set_stock(books: Books, command: SetStock, at: datetime) -> Outcome[Stock]:
    """Create the row or replace the one at the version that was named."""
    key = (command.sku, command.location)
    row = books.row(key)
    current = None if row is None or row.deleted else row.version
    if command.expected_version != current:
        books.reliances.append([key])
        return _stale(current)
    row = row or books.new_row(key, at)
    row.name, row.low_stock_at = command.name, command.low_stock_at
    row.pinned, row.deleted = True, False
    books.move(key, "set", command.available - row.available, 0, at)
    return Done("created" if current is None else "changed", row.stock())


def adjust_stock(books: Books, command: AdjustStock, at: datetime) -> Outcome[Adjustment]:
    """Correct `available`, once; a refusal is not remembered."""
    stored = books.adjustments.get(command.identity)
    if stored is not None:
        return _same_adjustment(command, stored) or Done("unchanged", stored)
    key = (command.sku, command.location)
    row = books.row(key)
    if row is None or row.deleted:
        return books.unknown([key]) or NotFound("There is no such stock row.")
    refusal = _refuse_adjustment(books, command, row, at)
    if refusal is not None:
        books.reliances.append([key])
        return refusal
    row.pinned = True
    books.move(key, "adjust", command.delta, 0, at)
    adjustment = Adjustment(
        id=adjustment_id(*command.identity),
        source=command.source,
        seq=command.seq,
        sku=command.sku,
        location=command.location,
        delta=command.delta,
        reason=command.reason,
        version=row.version,
        created_at=at,
    )
    books.adjustments[command.identity] = adjustment
    return Done("created", adjustment)


def _refuse_adjustment(
    books: Books, command: AdjustStock, row: Row, at: datetime
) -> ServiceError | None:
    if command.expected_version not in (None, row.version):
        return _stale(row.version)
    if row.available + command.delta > AVAILABLE_MAX:
        return InvalidRequest.at("delta", f"would make available exceed {AVAILABLE_MAX}")
    asked = (Line(*row.key, -command.delta),)
    shortages = books.shortages(asked) if command.delta < 0 else []
    if shortages and reclaim(books, shortages, at):
        if command.expected_version is not None:
            return _stale(row.version)
        shortages = books.shortages(asked)
    if shortages:
        return AdjustmentBelowZero(
            "The adjustment would take available below zero.", shortages=shortages
        )
    return None


def delete_stock(books: Books, command: DeleteStock, at: datetime) -> Outcome[None]:
    """Empty the row and mark it deleted; deleting twice is deleting once."""
    key = (command.sku, command.location)
    row = books.row(key)
    if row is None or row.deleted:
        return Done("unchanged", None)
    if command.expected_version not in (None, row.version):
        books.reliances.append([key])
        return _stale(row.version)
    if row.held:
        books.reliances.append([key])
        return StockInUse(f"{row.held} units are held by open reservations.")
    row.pinned = row.deleted = True
    row.name = row.low_stock_at = None
    books.move(key, "delete", -row.available, 0, at)
    return Done("changed", None)


def import_stock(books: Books, command: ImportStock, at: datetime) -> Outcome[ImportJob]:
    """Look which rows are missing, then create those; once for each job name.

    Rows that the job's record tells to be done are passed over; who repeats an import that was
    interrupted goes on where it stopped.
    """
    identity = (command.source, command.job)
    stored = books.import_jobs.get(identity)
    if stored is not None and stored.digest != command.digest:
        return mismatch("content", stored.digest, command.digest)
    if stored is None:
        in_all = len(command.rows) if command.rows_in_all is None else command.rows_in_all
        stored = ImportJob(*identity, command.digest, in_all, 0, 0, at)
    rows = command.rows[max(stored.rows_done - command.first, 0) :]
    if stored.rows_done < command.first or not rows:
        return Done("unchanged", stored)
    created = sum([_create_missing(books, row, at) for row in rows])
    job = stored._replace(
        created=stored.created + created, skipped=stored.skipped + len(rows) - created
    )
    books.import_jobs[identity] = job
    return Done("created", job)


def _create_missing(books: Books, imported: tuple[str, str, int, str | None], at: datetime) -> bool:
    """Create a stock row, unless it is there."""
    sku, location, available, name = imported
    row = books.row((sku, location))
    if row is not None and not row.deleted:
        return False
    row = row or books.new_row((sku, location), at)
    row.name, row.pinned, row.deleted = name, True, False
    books.move(row.key, "import", available, 0, at)
    return True


def _stale(current: int | None) -> VersionMismatch:
    return VersionMismatch(
        "There is no such stock row." if current is None else f"The version is {current}.",
        current=current,
    )


def _same_adjustment(command: AdjustStock, stored: Adjustment) -> IdempotencyMismatch | None:
    for field in ("sku", "location", "delta", "reason"):
        if getattr(command, field) != getattr(stored, field):
            return mismatch(field, getattr(stored, field), getattr(command, field))
    return None
