"""The rules of reservations: reserve, confirm, cancel, extend, expire, refund."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from db.rows import Key, Line, Refund, Reservation
from db.vocabulary import State
from service.domain.books import Books
from service.domain.commands import (
    Caller,
    Cancel,
    Confirm,
    Done,
    Expire,
    Extend,
    Outcome,
    RefundUnits,
    Reserve,
    refund_id,
)
from service.domain.errors import (
    ExceedsHeld,
    ExceedsRefundable,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientStock,
    NotFound,
    ServiceError,
)
from service.domain.lifecycle import REPEATS, TRANSITIONS, allowed


def reserve(books: Books, command: Reserve, at: datetime) -> Outcome[Reservation]:
    """Answer as before if the identity is known; else take all lines or refuse, for good."""
    stored = _stored(books, command)
    if stored is not None:
        return stored
    keys = [line.key for line in command.lines]
    if unknown := books.unknown(keys):
        return unknown
    shortages = books.shortages(command.lines)
    if shortages and reclaim(books, shortages, at):
        shortages = books.shortages(command.lines)
    if shortages:
        books.reliances.append(keys)
    hold = command.hold_seconds
    reservation = Reservation(
        id=command.effective_id,
        source=command.source,
        seq=command.seq,
        state=_first_state(hold, refused=bool(shortages)),
        version=1,
        hold_seconds=hold,
        expires_at=at + timedelta(seconds=hold) if hold and not shortages else None,
        metadata=command.metadata,
        shortages=shortages or None,
        created_at=at,
        updated_at=at,
        lines=command.lines
        if hold or shortages
        else tuple(line._replace(confirmed=line.quantity) for line in command.lines),
    )
    books.keep(reservation)
    books.identities[command.source, command.seq] = reservation.id
    if shortages:
        return _refusal(reservation, replayed=False)
    for line in command.lines:
        held = line.quantity if hold else 0
        books.move(line.key, "reserve", -line.quantity, held, at, reservation)
    return Done("created", reservation)


def confirm(books: Books, command: Confirm, at: datetime) -> Outcome[Reservation]:
    """Sell what is confirmed and release the rest, in one step."""
    reservation = _find(books, command.caller, command.id, at)
    if isinstance(reservation, ServiceError):
        return reservation
    asked = _asked(command.lines, reservation)
    if (reservation.state, "confirm") in REPEATS and asked == _confirmed(reservation):
        return Done("unchanged", reservation)
    if (reservation.state, "confirm") not in TRANSITIONS:
        return _illegal("confirm", reservation)
    held = {line.key: line.quantity for line in reservation.lines}
    if any(quantity > held.get(key, 0) for key, quantity in asked.items()):
        return ExceedsHeld(
            "More units than the reservation holds were to be confirmed.",
            held=[_quantity(line) for line in reservation.lines],
        )
    lines = tuple(line._replace(confirmed=asked.get(line.key, 0)) for line in reservation.lines)
    confirmed = _step(books, reservation, "confirm", at, lines=lines)
    for line in lines:
        released = line.quantity - line.confirmed
        books.move(line.key, "confirm", released, -line.quantity, at, confirmed)
    return Done("changed", confirmed)


def cancel(books: Books, command: Cancel, at: datetime) -> Outcome[Reservation]:
    """Give every unit of a hold back."""
    reservation = _find(books, command.caller, command.id, at)
    if isinstance(reservation, ServiceError):
        return reservation
    if (reservation.state, "cancel") in REPEATS:
        return Done("unchanged", reservation)
    if (reservation.state, "cancel") not in TRANSITIONS:
        return _illegal("cancel", reservation)
    return Done("changed", _release(books, reservation, "cancel", at))


def extend(books: Books, command: Extend, at: datetime) -> Outcome[Reservation]:
    """Move the deadline."""
    reservation = _find(books, command.caller, command.id, at)
    if isinstance(reservation, ServiceError):
        return reservation
    if (reservation.state, "extend") not in TRANSITIONS:
        return _illegal("extend", reservation)
    deadline = at + timedelta(seconds=command.hold_seconds)
    return Done("changed", _step(books, reservation, "extend", at, expires_at=deadline))


def expire(books: Books, command: Expire, at: datetime) -> Outcome[Reservation | None]:
    """Give every unit of an overdue hold back; nothing happens to any other."""
    reservation = books.reservations.get(command.id)
    if reservation is None or not _is_overdue(reservation, at):
        return Done("unchanged", None)
    return Done("changed", _release(books, reservation, "expire", at))


def refund(books: Books, command: RefundUnits, at: datetime) -> Outcome[Refund]:
    """Give units of a sale back; the last unit makes it `refunded`."""
    stored = books.refunds.get(command.identity)
    if stored is not None:
        return _same_refund(command, stored) or Done("unchanged", stored)
    reservation = _find(books, command.caller, command.id, at)
    if isinstance(reservation, ServiceError):
        return reservation
    if (reservation.state, "refund") not in TRANSITIONS:
        return _illegal("refund", reservation)
    left = {line.key: line.confirmed - line.refunded for line in reservation.lines}
    if command.lines is None:
        given = {key: quantity for key, quantity in left.items() if quantity}
    else:
        given = {line.key: line.quantity for line in command.lines}
    if any(quantity > left.get(key, 0) for key, quantity in given.items()):
        return ExceedsRefundable(
            "More units than are left of the reservation were to be refunded.",
            refundable=[
                {"sku": key[0], "location": key[1], "quantity": quantity}
                for key, quantity in left.items()
                if quantity
            ],
        )
    if unknown := books.unknown(list(given)):
        return unknown
    return Done("created", _give_back(books, command, reservation, given, at))


def _give_back(
    books: Books,
    command: RefundUnits,
    reservation: Reservation,
    given: dict[Key, int],
    at: datetime,
) -> Refund:
    lines = tuple(
        line._replace(refunded=line.refunded + given.get(line.key, 0)) for line in reservation.lines
    )
    is_last = all(line.refunded == line.confirmed for line in lines)
    state = State.REFUNDED if is_last else None
    refunded = _step(books, reservation, "refund", at, lines=lines, state=state)
    for key, quantity in given.items():
        books.move(key, "refund", quantity, 0, at, refunded)
    refund = Refund(
        id=refund_id(*command.identity),
        reservation_id=reservation.id,
        source=command.caller.source,
        seq=command.seq,
        entire=command.lines is None,
        reason=command.reason,
        created_at=at,
        lines=tuple(Line(*key, quantity) for key, quantity in sorted(given.items())),
    )
    books.refunds[command.identity] = refund
    return refund


def reclaim(books: Books, shortages: list[dict[str, Any]], at: datetime) -> bool:
    """Expire the overdue holds on the short rows; True when there were any.

    A row without held units has none. Those of other rows must be in the snapshot first.
    """
    reclaimed = False
    for shortage in shortages:
        key = (shortage["sku"], shortage["location"])
        row = books.row(key)
        if row is None or not row.held:
            continue
        if key not in books.snapshot.overdue:
            books.lacking.add(key)
            continue
        for id_ in books.overdue.get(key, ()):
            if _is_overdue(books.reservations[id_], at):
                _release(books, books.reservations[id_], "expire", at)
                reclaimed = True
    return reclaimed


def _find(books: Books, caller: Caller, id_: UUID, at: datetime) -> Reservation | ServiceError:
    """The reservation a caller may move, its hold expired first if its deadline has passed."""
    reservation = books.reservations.get(id_)
    if reservation is None or not caller.sees(reservation.source):
        return NotFound("There is no such reservation.")
    if _is_overdue(reservation, at):
        return _release(books, reservation, "expire", at)
    return reservation


def _step(
    books: Books,
    reservation: Reservation,
    transition: str,
    at: datetime,
    *,
    lines: tuple[Line, ...] | None = None,
    state: State | None = None,
    expires_at: datetime | None = None,
) -> Reservation:
    """Make a transition, which raises the version; one from `held` must beat the deadline."""
    if transition in ("confirm", "cancel", "extend") and reservation.expires_at is not None:
        deadline = reservation.expires_at
        books.apply_before = min(books.apply_before or deadline, deadline)
    changed = reservation._replace(
        state=state or TRANSITIONS[reservation.state, transition],
        version=reservation.version + 1,
        expires_at=expires_at or reservation.expires_at,
        updated_at=at,
        lines=reservation.lines if lines is None else lines,
    )
    books.keep(changed)
    return changed


def _release(books: Books, reservation: Reservation, transition: str, at: datetime) -> Reservation:
    """Cancel or expire: every unit goes back to `available`."""
    released = _step(books, reservation, transition, at)
    for line in released.lines:
        books.move(line.key, transition, line.quantity, -line.quantity, at, released)
    return released


def _stored(books: Books, command: Reserve) -> Outcome[Reservation] | None:
    """The answer that an earlier request with this identity got, if there was one."""
    by_id = books.reservations.get(command.effective_id)
    id_ = books.identities.get((command.source, command.seq))
    is_asked = command.id is not None or id_ is None  # a derived id is only a first request's
    if by_id is not None and by_id.source != command.source and is_asked:
        return mismatch("id", None, str(command.effective_id))
    if id_ is None:
        if by_id is None:
            return None
        return mismatch("seq", by_id.seq, command.seq)
    stored = books.reservations[id_]
    if command.id is not None and command.id != id_:
        return mismatch("id", str(id_), str(command.id))
    asked = [line[:3] for line in command.lines]
    if asked != [line[:3] for line in stored.lines]:
        return mismatch("lines", _quantities(stored.lines), _quantities(command.lines))
    if command.hold_seconds != stored.hold_seconds:
        return mismatch("hold_seconds", stored.hold_seconds, command.hold_seconds)
    if command.metadata != stored.metadata:
        return mismatch("metadata", stored.metadata, command.metadata)
    if stored.state == State.REJECTED:
        return _refusal(stored, replayed=True)
    return Done("unchanged", stored)


def _first_state(hold_seconds: int | None, *, refused: bool) -> State:
    if refused:
        return State.REJECTED
    return State.HELD if hold_seconds else State.CONFIRMED


def _asked(lines: tuple[Line, ...] | None, reservation: Reservation) -> dict[Key, int]:
    return {line.key: line.quantity for line in lines or reservation.lines}


def _confirmed(reservation: Reservation) -> dict[Key, int]:
    return {line.key: line.confirmed for line in reservation.lines if line.confirmed}


def _refusal(reservation: Reservation, *, replayed: bool) -> InsufficientStock:
    return InsufficientStock(
        "There is not enough stock for this reservation.",
        replayed=replayed,
        reservation_id=str(reservation.id),
        shortages=reservation.shortages,
    )


def _illegal(transition: str, reservation: Reservation) -> IllegalTransition:
    return IllegalTransition(
        f"A reservation that is {reservation.state} can't {transition}.",
        state=reservation.state,
        allowed=allowed(reservation.state),
    )


def _same_refund(command: RefundUnits, stored: Refund) -> IdempotencyMismatch | None:
    if command.id != stored.reservation_id:
        return mismatch("reservation_id", str(stored.reservation_id), str(command.id))
    asked = None if command.lines is None else _quantities(command.lines)
    before = None if stored.entire else _quantities(stored.lines)
    if asked != before:
        return mismatch("lines", before, asked)
    if command.reason != stored.reason:
        return mismatch("reason", stored.reason, command.reason)
    return None


def mismatch(field: str, stored: Any, sent: Any) -> IdempotencyMismatch:
    """Return the refusal of a known identity whose content differs in `field`."""
    return IdempotencyMismatch(
        f"The first request with this identity differs in {field}.",
        field=field,
        stored=stored,
        sent=sent,
    )


def _is_overdue(reservation: Reservation, at: datetime) -> bool:
    deadline = reservation.expires_at
    return reservation.state == State.HELD and deadline is not None and at >= deadline


def _quantity(line: Line) -> dict[str, Any]:
    return {"sku": line.sku, "location": line.location, "quantity": line.quantity}


def _quantities(lines: tuple[Line, ...]) -> list[dict[str, Any]]:
    return [_quantity(line) for line in lines]
