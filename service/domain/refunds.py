"""The rule of refunds: units of a sale are given back, once for each identity."""

from db.rows import Line, Refund, Reservation, StockKey
from db.vocabulary import MovementKind
from service.domain.books import Books
from service.domain.commands import Done, Outcome, RefundUnits
from service.domain.errors import ExceedsRefundable, IdempotencyMismatch, ServiceError, UnknownSku
from service.domain.holds import find_current, without_a_step
from service.domain.identifiers import refund_id
from service.domain.quantities import by_key, entry, exceeds, quantities_of


def refund(books: Books, command: RefundUnits) -> Outcome[Refund]:
    """Give units of a sale back; with its last unit the sale becomes `refunded`."""
    stored = books.recall(Refund, command.identity)
    if stored is not None:
        return _mismatch(command, stored) or Done("unchanged", stored)
    reservation = find_current(books, command.caller, command.id)
    if isinstance(reservation, ServiceError):
        return reservation
    if isinstance(refusal := without_a_step(reservation, "refund"), ServiceError):
        return refusal
    left = _left(reservation)
    given = left if command.lines is None else by_key(command.lines)
    if exceeds(given, left):
        return ExceedsRefundable(
            "The request refunds more units than the reservation has left.",
            refundable=[entry(key, quantity) for key, quantity in left.items()],
        )
    if unknown := [key for key in given if books.look(key) is None]:
        return UnknownSku.of(unknown)
    _give_back(books, reservation, given)
    answer = _answer(books, command, given)
    books.remember(answer)
    return Done("created", answer)


def _left(reservation: Reservation) -> dict[StockKey, int]:
    """The units that can still be given back."""
    return {
        line.key: line.confirmed - line.refunded
        for line in reservation.lines
        if line.confirmed > line.refunded
    }


def _give_back(books: Books, reservation: Reservation, given: dict[StockKey, int]) -> None:
    lines = tuple(
        line._replace(refunded=line.refunded + given.get(line.key, 0)) for line in reservation.lines
    )
    is_last = all(line.refunded == line.confirmed for line in lines)
    refunded = books.step(reservation, "refund_rest" if is_last else "refund", lines=lines)
    for key, quantity in given.items():
        books.move(key, MovementKind.REFUND, quantity, 0, refunded)


def _answer(books: Books, command: RefundUnits, given: dict[StockKey, int]) -> Refund:
    return Refund(
        id=refund_id(*command.identity),
        reservation_id=command.id,
        source=command.caller.source,
        seq=command.seq,
        entire=command.lines is None,
        reason=command.reason,
        created_at=books.at,
        lines=tuple(Line(*key, quantity) for key, quantity in sorted(given.items())),
    )


def _mismatch(command: RefundUnits, stored: Refund) -> IdempotencyMismatch | None:
    """The refusal of a known identity with other content; None if the content is the same."""
    if command.id != stored.reservation_id:
        return IdempotencyMismatch.of("reservation_id", str(stored.reservation_id), str(command.id))
    asked = None if command.lines is None else quantities_of(command.lines)
    before = None if stored.entire else quantities_of(stored.lines)
    if asked != before:
        return IdempotencyMismatch.of("lines", before, asked)
    if command.reason != stored.reason:
        return IdempotencyMismatch.of("reason", stored.reason, command.reason)
    return None
