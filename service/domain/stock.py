"""The rules of stock itself: set, adjust, delete, import."""

from collections.abc import Sequence

from db.rows import Adjustment, ImportJob, Line, Stock
from db.vocabulary import MovementKind
from service.domain.availability import reclaim, shortages_of
from service.domain.books import Books
from service.domain.commands import AdjustStock, DeleteStock, Done, ImportStock, Outcome, SetStock
from service.domain.errors import (
    AdjustmentBelowZero,
    IdempotencyMismatch,
    InvalidRequest,
    ServiceError,
    StockInUse,
    UnknownSku,
    VersionMismatch,
)
from service.domain.identifiers import adjustment_id
from service.domain.stock_row import StockView

AVAILABLE_MAX = 1_000_000_000_000
"""No row may have more available units."""


def set_stock(books: Books, command: SetStock) -> Outcome[Stock]:
    """Create the row, or replace the one at the version that the command names."""
    row = books.look(command.key)
    current = None if row is None else row.version
    if command.expected_version != current:
        return _stale(current)
    stock = books.put(
        command.key,
        MovementKind.SET,
        command.available,
        name=command.name,
        low_stock_at=command.low_stock_at,
    )
    return Done("created" if current is None else "changed", stock)


def adjust_stock(books: Books, command: AdjustStock) -> Outcome[Adjustment]:
    """Correct `available`, once; a refusal is not remembered."""
    stored = books.recall(Adjustment, command.identity)
    if stored is not None:
        return _mismatch(command, stored) or Done("unchanged", stored)
    row = books.look(command.key)
    if row is None:
        return UnknownSku.of([command.key])
    refusal = _refuse_adjustment(books, command, row)
    if refusal is not None:
        return refusal
    adjustment = Adjustment(
        id=adjustment_id(*command.identity),
        source=command.source,
        seq=command.seq,
        sku=command.sku,
        location=command.location,
        delta=command.delta,
        reason=command.reason,
        version=books.adjust(command.key, command.delta),
        created_at=books.at,
    )
    books.remember(adjustment)
    return Done("created", adjustment)


def _refuse_adjustment(books: Books, command: AdjustStock, row: StockView) -> ServiceError | None:
    if command.expected_version not in (None, row.version):
        return _stale(row.version)
    if row.available + command.delta > AVAILABLE_MAX:
        return InvalidRequest.at("delta", f"would make available exceed {AVAILABLE_MAX}")
    asked = [Line(*command.key, -command.delta)]
    shortages = shortages_of(asked, [row]) if command.delta < 0 else []
    if shortages and reclaim(books, shortages):
        if command.expected_version is not None:
            return _stale(row.version)
        shortages = shortages_of(asked, [row])
    if shortages:
        return AdjustmentBelowZero(
            "The adjustment would take available below zero.", shortages=shortages
        )
    return None


def delete_stock(books: Books, command: DeleteStock) -> Outcome[None]:
    """Empty the row and mark it deleted; a second deletion changes nothing."""
    row = books.look(command.key)
    if row is None:
        return Done("unchanged", None)
    if command.expected_version not in (None, row.version):
        return _stale(row.version)
    if row.held:
        return StockInUse(f"{row.held} units are held by open reservations.")
    books.delete(command.key)
    return Done("changed", None)


def import_stock(books: Books, command: ImportStock) -> Outcome[ImportJob]:
    """Create the rows that are missing, once for each job name.

    Rows that the job's record counts as done are skipped. An import that was interrupted and is
    sent again continues where it stopped.
    """
    job = books.recall(ImportJob, command.identity)
    if job is not None and job.digest != command.digest:
        return IdempotencyMismatch.of("content", job.digest, command.digest)
    if job is None:
        in_all = len(command.rows) if command.rows_in_all is None else command.rows_in_all
        job = ImportJob(*command.identity, command.digest, in_all, 0, 0, books.at)
    rows = command.rows[max(job.rows_done - command.first, 0) :]
    if job.rows_done < command.first or not rows:
        return Done("unchanged", job)
    created = _create_missing(books, rows)
    job = job._replace(created=job.created + created, skipped=job.skipped + len(rows) - created)
    books.remember(job)
    return Done("created", job)


def _create_missing(books: Books, rows: Sequence[tuple[str, str, int, str | None]]) -> int:
    """Create the stock rows that are missing; return their number."""
    created = 0
    for sku, location, available, name in rows:
        if books.look((sku, location)) is None:
            books.put((sku, location), MovementKind.IMPORT, available, name=name, low_stock_at=None)
            created += 1
    return created


def _stale(current: int | None) -> VersionMismatch:
    return VersionMismatch(
        "There is no such stock row." if current is None else f"The version is {current}.",
        current=current,
    )


def _mismatch(command: AdjustStock, stored: Adjustment) -> IdempotencyMismatch | None:
    """The refusal of a known identity with other content; None if the content is the same."""
    for field in ("sku", "location", "delta", "reason"):
        if getattr(command, field) != getattr(stored, field):
            return IdempotencyMismatch.of(field, getattr(stored, field), getattr(command, field))
    return None
