"""The rules of reservations: reserve, and the answer to a request that is sent again."""

from datetime import timedelta

from db.rows import Line, Reservation
from db.vocabulary import MovementKind, State
from service.domain.availability import Shortage, reclaim, shortages_of, stocked
from service.domain.books import Books
from service.domain.commands import Done, Outcome, Reserve
from service.domain.errors import (
    IdempotencyMismatch,
    InsufficientStock,
    QuotaExceeded,
    ServiceError,
)
from service.domain.holds import too_long
from service.domain.lifecycle import first_state
from service.domain.quantities import quantities_of
from service.domain.source_use import Excess


def reserve(books: Books, command: Reserve) -> Outcome[Reservation]:
    """Answer as before if the identity is known; else take all lines or refuse permanently."""
    stored = _stored(books, command)
    if stored is not None:
        return stored
    if command.hold_seconds and (refusal := too_long(books, command.source, command.hold_seconds)):
        return refusal
    rows = stocked(books, command.lines)
    if isinstance(rows, ServiceError):
        return rows
    if command.hold_seconds and (excess := books.excess(command.source, command.lines)):
        return _over_quota(command.source, excess)
    shortages = shortages_of(command.lines, rows)
    if shortages and reclaim(books, shortages):
        shortages = shortages_of(command.lines, rows)
    reservation = _reservation(books, command, shortages)
    books.create(reservation)
    if shortages:
        return _refusal(reservation, replayed=False)
    for line in command.lines:
        held = line.quantity if command.hold_seconds else 0
        books.move(line.key, MovementKind.RESERVE, -line.quantity, held, reservation)
    return Done("created", reservation)


def _over_quota(source: str, excess: Excess) -> QuotaExceeded:
    """The refusal of a hold that would exceed a limit of its source. It is not remembered."""
    return QuotaExceeded(
        f"The open holds of {source} would exceed {excess.limit}.", **excess._asdict()
    )


def _reservation(books: Books, command: Reserve, shortages: list[Shortage]) -> Reservation:
    hold = command.hold_seconds
    is_sale = not hold and not shortages
    return Reservation(
        id=command.effective_id,
        source=command.source,
        seq=command.seq,
        state=first_state(is_short=bool(shortages), is_hold=bool(hold)),
        version=1,
        hold_seconds=hold,
        expires_at=books.at + timedelta(seconds=hold) if hold and not shortages else None,
        metadata=command.metadata,
        shortages=shortages or None,
        created_at=books.at,
        updated_at=books.at,
        lines=tuple(map(_sold, command.lines)) if is_sale else command.lines,
    )


def _sold(line: Line) -> Line:
    return line._replace(confirmed=line.quantity)


def _stored(books: Books, command: Reserve) -> Outcome[Reservation] | None:
    """The answer that an earlier request with this identity got; None if there was none.

    A derived id is compared only for the first request with its seq; a chosen id always is.
    """
    stored = books.reservation_of((command.source, command.seq))
    namesake = books.reservation(command.effective_id)
    is_foreign = namesake is not None and namesake.source != command.source
    if is_foreign and (stored is None or command.id is not None):
        return IdempotencyMismatch.of("id", None, str(command.effective_id))
    if stored is not None:
        return _other_content(command, stored) or _repeated(stored)
    if namesake is not None:
        return IdempotencyMismatch.of("seq", namesake.seq, command.seq)
    return None


def _other_content(command: Reserve, stored: Reservation) -> IdempotencyMismatch | None:
    """The refusal of a known seq with another id or other content; None if all is the same."""
    if command.id not in (None, stored.id):
        return IdempotencyMismatch.of("id", str(stored.id), str(command.id))
    asked = [line[:3] for line in command.lines]
    if asked != [line[:3] for line in stored.lines]:
        return IdempotencyMismatch.of(
            "lines", quantities_of(stored.lines), quantities_of(command.lines)
        )
    if command.hold_seconds != stored.hold_seconds:
        return IdempotencyMismatch.of("hold_seconds", stored.hold_seconds, command.hold_seconds)
    if command.metadata != stored.metadata:
        return IdempotencyMismatch.of("metadata", stored.metadata, command.metadata)
    return None


def _repeated(stored: Reservation) -> Outcome[Reservation]:
    if stored.state == State.REJECTED:
        return _refusal(stored, replayed=True)
    return Done("unchanged", stored)


def _refusal(reservation: Reservation, *, replayed: bool) -> InsufficientStock:
    return InsufficientStock(
        "There is not enough stock for this reservation.",
        replayed=replayed,
        reservation_id=str(reservation.id),
        shortages=reservation.shortages,
    )
