"""The rules of reservations: reserve, and the answer to a request that is sent again."""

from datetime import timedelta

from db.rows import Line, Reservation
from db.vocabulary import MovementKind, State
from service.domain.availability import Shortage, reclaim, shortages_of, stocked
from service.domain.books import Books
from service.domain.commands import Done, Outcome, Reserve
from service.domain.errors import IdempotencyMismatch, InsufficientStock, ServiceError
from service.domain.lifecycle import first_state
from service.domain.quantities import quantities_of


def reserve(books: Books, command: Reserve) -> Outcome[Reservation]:
    """Answer as before if the identity is known; else take all lines or refuse permanently."""
    stored = _stored(books, command)
    if stored is not None:
        return stored
    rows = stocked(books, command.lines)
    if isinstance(rows, ServiceError):
        return rows
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
    """The answer that an earlier request with this identity got; None if there was none."""
    stored = books.reservation_of((command.source, command.seq))
    namesake = books.reservation(command.effective_id)
    if stored is None and namesake is None:
        return None
    mismatch = _other_identity(command, namesake, stored)
    if mismatch is not None or stored is None:
        return mismatch
    asked = [line[:3] for line in command.lines]
    if asked != [line[:3] for line in stored.lines]:
        return IdempotencyMismatch.of(
            "lines", quantities_of(stored.lines), quantities_of(command.lines)
        )
    if command.hold_seconds != stored.hold_seconds:
        return IdempotencyMismatch.of("hold_seconds", stored.hold_seconds, command.hold_seconds)
    if command.metadata != stored.metadata:
        return IdempotencyMismatch.of("metadata", stored.metadata, command.metadata)
    if stored.state == State.REJECTED:
        return _refusal(stored, replayed=True)
    return Done("unchanged", stored)


def _other_identity(
    command: Reserve, by_id: Reservation | None, by_seq: Reservation | None
) -> IdempotencyMismatch | None:
    """The refusal of an id or a seq that belongs to another reservation.

    A derived id is compared only for the first request with its seq; a chosen id always is.
    """
    is_asked = command.id is not None or by_seq is None
    if by_id is not None and by_id.source != command.source and is_asked:
        return IdempotencyMismatch.of("id", None, str(command.effective_id))
    if by_seq is None:
        return None if by_id is None else IdempotencyMismatch.of("seq", by_id.seq, command.seq)
    if command.id is not None and command.id != by_seq.id:
        return IdempotencyMismatch.of("id", str(by_seq.id), str(command.id))
    return None


def _refusal(reservation: Reservation, *, replayed: bool) -> InsufficientStock:
    return InsufficientStock(
        "There is not enough stock for this reservation.",
        replayed=replayed,
        reservation_id=str(reservation.id),
        shortages=reservation.shortages,
    )
