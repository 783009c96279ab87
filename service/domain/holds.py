"""The rules of holds: confirm, cancel, extend, expire. Each one takes a step of the lifecycle."""

from datetime import timedelta
from typing import Literal
from uuid import UUID

from db.rows import Reservation, StockKey
from db.vocabulary import MovementKind, State
from service.domain.books import Books
from service.domain.commands import Caller, Cancel, Confirm, Done, Expire, Extend, Outcome
from service.domain.errors import (
    ExceedsHeld,
    IllegalTransition,
    InvalidRequest,
    NotFound,
    ServiceError,
)
from service.domain.lifecycle import REPEATED, Step, allowed, is_overdue, verdict_on
from service.domain.quantities import by_key, exceeds, quantities_of


def confirm(books: Books, command: Confirm) -> Outcome[Reservation]:
    """Sell the units that are confirmed and release the rest, in one step."""
    reservation = find_current(books, command.caller, command.id)
    if isinstance(reservation, ServiceError):
        return reservation
    asked = by_key(command.lines or reservation.lines)
    is_same = asked == _confirmed(reservation)
    if (answer := without_a_step(reservation, "confirm", is_same=is_same)) is not None:
        return answer
    if exceeds(asked, by_key(reservation.lines)):
        return ExceedsHeld(
            "The request confirms more units than the reservation holds.",
            held=quantities_of(reservation.lines),
        )
    lines = tuple(line._replace(confirmed=asked.get(line.key, 0)) for line in reservation.lines)
    confirmed = books.step(reservation, "confirm", lines=lines)
    for line in lines:
        released = line.quantity - line.confirmed
        books.move(line.key, MovementKind.CONFIRM, released, -line.quantity, confirmed)
    return Done("changed", confirmed)


def cancel(books: Books, command: Cancel) -> Outcome[Reservation]:
    """Give every unit of a hold back."""
    reservation = find_current(books, command.caller, command.id)
    if isinstance(reservation, ServiceError):
        return reservation
    if (answer := without_a_step(reservation, "cancel")) is not None:
        return answer
    return Done("changed", release(books, reservation, "cancel"))


def extend(books: Books, command: Extend) -> Outcome[Reservation]:
    """Move the deadline."""
    reservation = find_current(books, command.caller, command.id)
    if isinstance(reservation, ServiceError):
        return reservation
    if (answer := without_a_step(reservation, "extend")) is not None:
        return answer
    open_before = (books.at - reservation.created_at).total_seconds()
    if refusal := too_long(books, reservation.source, open_before + command.hold_seconds):
        return refusal
    deadline = books.at + timedelta(seconds=command.hold_seconds)
    return Done("changed", books.step(reservation, "extend", expires_at=deadline))


def too_long(books: Books, source: str, seconds: float) -> InvalidRequest | None:
    """Return the refusal of a hold that would be open for longer than its source may hold."""
    seconds_max = books.hold_seconds_max(source)
    if seconds_max is None or seconds <= seconds_max:
        return None
    return InvalidRequest.at(
        "hold_seconds",
        f"is too long: a hold of {source} may be open for {seconds_max} seconds in all",
    )


def expire(books: Books, command: Expire) -> Outcome[Reservation | None]:
    """Give every unit of an overdue hold back; change no other reservation."""
    reservation = books.reservation(command.id)
    if reservation is None or not is_overdue(reservation, books.at):
        return Done("unchanged", None)
    return Done("changed", release(books, reservation, "expire"))


def find_current(books: Books, caller: Caller, id_: UUID) -> Reservation | NotFound:
    """Return the reservation that a caller may change. An overdue hold expires first."""
    reservation = books.reservation(id_)
    if reservation is None or not caller.sees(reservation.source):
        return NotFound("There is no such reservation.")
    if is_overdue(reservation, books.at):
        return release(books, reservation, "expire")
    return reservation


def without_a_step(
    reservation: Reservation, step: Step, *, is_same: bool = True
) -> Outcome[Reservation] | None:
    """Return the answer to a step that can't be taken; None if it can.

    A repeated step is answered again if it asks for the same as the first one.
    """
    verdict = verdict_on(reservation.state, step)
    if isinstance(verdict, State):
        return None
    if verdict == REPEATED and is_same:
        return Done("unchanged", reservation)
    return IllegalTransition(
        f"The reservation is {reservation.state}, so {step} is not allowed.",
        state=reservation.state,
        allowed=allowed(reservation.state),
    )


def release(
    books: Books, reservation: Reservation, step: Literal["cancel", "expire"]
) -> Reservation:
    """Give every unit of a hold back to `available`; return the reservation."""
    released = books.step(reservation, step)
    for line in released.lines:
        books.move(line.key, MovementKind(step), line.quantity, -line.quantity, released)
    return released


def _confirmed(reservation: Reservation) -> dict[StockKey, int]:
    return {line.key: line.confirmed for line in reservation.lines if line.confirmed}
