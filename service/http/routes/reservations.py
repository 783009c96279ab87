"""/v1/reservations: reserve, confirm, cancel, extend; read and list."""

from typing import Any
from uuid import UUID

from db import rows
from db.queries import lists, records
from db.vocabulary import Scope, State
from service.domain.commands import (
    Cancel,
    Confirm,
    Extend,
    Outcome,
    Reserve,
)
from service.domain.errors import (
    ExceedsHeld,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientStock,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    ServiceError,
    UnknownSku,
)
from service.domain.identifiers import reservation_id
from service.http.admission import count_entries
from service.http.call import Call
from service.http.failures import note_failure
from service.http.operation import Found, Success, operation
from service.http.reading.body_kinds import batch_body, json_body, merged_lines, optional_json_body
from service.http.reading.cursors import BY_CREATION, BY_STEP, Page, listed, page_before, page_of
from service.http.reading.parameters import (
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    MOMENT,
    NAME,
    STOCK_NAME,
    QueryParameter,
    choice,
)
from service.http.resources import BATCH, MOVEMENT, RESERVATION
from service.http.responses import problem, status_of
from service.http.uses import Logged
from service.input.bodies import (
    ConfirmBody,
    ExtendBody,
    NothingBody,
    ReserveBody,
)
from service.input.parsing import InvalidEntry

CHOSEN_VERSIONS = (4, 7)  # random or time-ordered; the ids that the service derives have 5

CREATED = ("Location", "ETag")
ON_A_REPLAY = ("Location", "ETag", "Idempotency-Replayed")
CHANGED = Success(
    200, "Done, now or by an earlier request.", RESERVATION, ("ETag", "Idempotency-Replayed")
)
NOT_MODIFIED = Success(304, "The client has this version.")
LIFECYCLE_ERRORS = (IllegalTransition, NotFound)


@operation(
    "POST",
    "/v1/reservations",
    "Reserve",
    Success(201, "Reserved.", RESERVATION, CREATED),
    Success(200, "Reserved before; the reservation as it is now.", RESERVATION, ON_A_REPLAY),
    scope=Scope.RESERVE,
    logged=Logged.NO_USE,
    body=json_body(ReserveBody),
    parameters=(IDEMPOTENCY_KEY,),
    errors=(InsufficientStock, UnknownSku, IdempotencyMismatch, QuotaExceeded),
    waits_for_space=True,
)
async def reserve(call: Call[ReserveBody]) -> Outcome[rows.Reservation]:
    """Take units of one or more SKUs, all lines or none: as a hold, or as a sale."""
    return await call.submit(_reserve(call, call.body, call.seq(call.body.seq)))


@operation(
    "POST",
    "/v1/reservations/batch",
    "Reserve many",
    Success(200, "Each entry's result, in order.", BATCH),
    scope=Scope.RESERVE,
    logged=Logged.NO_USE,
    body=batch_body(),
)
async def reserve_batch(call: Call[list[ReserveBody | InvalidEntry]]) -> Found:
    """Make up to 1,000 reservations, with the same results as if sent one after another."""
    await count_entries(call, len(call.body))
    entries = [_entry(call, entry) for entry in call.body]
    commands = [entry for entry in entries if isinstance(entry, Reserve)]
    outcomes = iter(await call.worker.coalescer.submit(commands) if commands else [])
    results = [
        _result(entry if isinstance(entry, ServiceError) else next(outcomes), call)
        for entry in entries
    ]
    return Found({"results": results})


@operation(
    "GET",
    "/v1/reservations",
    "List reservations",
    Success(200, "A page, in order of creation.", RESERVATION, is_list=True),
    scope=Scope.READ,
    logged=Logged.OTHER_SOURCES,
    parameters=(
        QueryParameter("source", "Only of this source.", NAME),
        QueryParameter("seq", "Only with this seq.", NAME),
        QueryParameter("state", "Only in this state.", choice(*State)),
        QueryParameter("sku", "Only with a line of this SKU.", STOCK_NAME),
        QueryParameter("created_after", "Only if created after this moment.", MOMENT),
        QueryParameter("created_before", "Only if created before this moment.", MOMENT),
        *listed(BY_CREATION),
    ),
)
async def list_reservations(call: Call[None]) -> Page:
    """List the caller's reservations; with the scope admin, those of all sources."""
    if not call.caller.every_source:
        call.check_source(call.query["source"])
    filters = {name: call.query[name] for name in FILTERS}
    filters["source"] = call.caller.only_source or call.query["source"]
    found, is_more = await call.read(
        lambda connection: lists.reservations(
            connection, limit=call.query["limit"], after=call.query["cursor"], **filters
        )
    )
    if call.caller.every_source:
        for row in found:
            call.reach(row.source)
    return page_before(found, BY_CREATION, is_more=is_more)


FILTERS = ("seq", "state", "sku", "created_after", "created_before")


@operation(
    "GET",
    "/v1/reservations/{id}",
    "Read a reservation",
    Success(200, "The reservation as it is stored.", RESERVATION, ("ETag",)),
    NOT_MODIFIED,
    scope=Scope.READ,
    logged=Logged.OTHER_SOURCES,
    parameters=(IF_NONE_MATCH,),
    errors=(NotFound,),
)
async def get_reservation(call: Call[None]) -> Found:
    """Return a reservation. An overdue hold may have the state `held` until it is released."""
    return Found(await visible_reservation(call))


@operation(
    "POST",
    "/v1/reservations/{id}/confirm",
    "Confirm a hold",
    CHANGED,
    scope=Scope.RESERVE,
    logged=Logged.OTHER_SOURCES,
    body=optional_json_body(ConfirmBody),
    errors=(*LIFECYCLE_ERRORS, ExceedsHeld),
)
async def confirm_reservation(call: Call[ConfirmBody]) -> Outcome[rows.Reservation]:
    """Sell all units of a hold, or the given lines; the rest is released in the same step."""
    lines = None if call.body.lines is None else merged_lines(call.body.lines)
    return await call.submit(Confirm(call.caller, call.reservation_id, lines))


@operation(
    "POST",
    "/v1/reservations/{id}/cancel",
    "Cancel a hold",
    CHANGED,
    scope=Scope.RESERVE,
    logged=Logged.OTHER_SOURCES,
    body=optional_json_body(NothingBody),
    errors=LIFECYCLE_ERRORS,
)
async def cancel_reservation(call: Call[NothingBody]) -> Outcome[rows.Reservation]:
    """Give all units of a hold back to available."""
    return await call.submit(Cancel(call.caller, call.reservation_id))


@operation(
    "POST",
    "/v1/reservations/{id}/extend",
    "Extend a hold",
    Success(200, "Extended.", RESERVATION, ("ETag",)),
    scope=Scope.RESERVE,
    logged=Logged.OTHER_SOURCES,
    body=json_body(ExtendBody),
    errors=LIFECYCLE_ERRORS,
)
async def extend_reservation(call: Call[ExtendBody]) -> Outcome[rows.Reservation]:
    """Move a hold's deadline to `hold_seconds` from now."""
    return await call.submit(Extend(call.caller, call.reservation_id, call.body.hold_seconds))


@operation(
    "GET",
    "/v1/reservations/{id}/movements",
    "List a reservation's movements",
    Success(200, "A page, in order of the steps.", MOVEMENT, is_list=True),
    scope=Scope.READ,
    logged=Logged.OTHER_SOURCES,
    parameters=listed(BY_STEP),
    errors=(NotFound,),
)
async def list_reservation_movements(call: Call[None]) -> Page:
    """List the movements that a reservation caused."""
    row, limit = await visible_reservation(call), call.query["limit"]
    found = await call.read(
        lambda connection: lists.reservation_movements(
            connection, row.id, limit=limit + 1, after=call.query["cursor"]
        )
    )
    return page_of(found, limit, BY_STEP)


async def visible_reservation(call: Call[None]) -> rows.Reservation:
    """Return the reservation of the path. Raises `NotFound`, also if the caller may not see it."""
    id_ = call.reservation_id
    row = await call.read(
        lambda connection: records.find_reservation(connection, id_, call.caller.only_source)
    )
    if row is None:
        raise NotFound("There is no such reservation.")
    call.reach(row.source)
    return row


def _reserve(call: Call[Any], body: ReserveBody, seq: str) -> Reserve:
    call.check_source(body.source)
    source = call.caller.source
    derived = reservation_id(source, seq)
    _check_chosen(body.id, derived)
    return Reserve(
        source=source,
        seq=seq,
        id=body.id,
        lines=merged_lines(body.lines),
        hold_seconds=body.hold_seconds,
        metadata=body.metadata,
        effective_id=body.id or derived,
    )


def _check_chosen(id_: UUID | None, derived: UUID) -> None:
    """Raise `InvalidRequest` for an id that another source might derive later."""
    if id_ is not None and id_ != derived and id_.version not in CHOSEN_VERSIONS:
        raise InvalidRequest.at(
            "id", "must be a UUID of version 4 or 7, or the one derived from this source and seq"
        )


def _entry(call: Call[Any], entry: ReserveBody | InvalidEntry) -> Reserve | ServiceError:
    """An entry of a batch as a command, or its error."""
    if isinstance(entry, InvalidEntry):
        return entry.error
    try:
        if entry.seq is None:
            raise InvalidRequest.at("seq", "is missing")
        return _reserve(call, entry, entry.seq)
    except ServiceError as error:
        return error.as_value()


def _result(outcome: Outcome[rows.Reservation], call: Call[Any]) -> dict[str, Any]:
    """The result of an entry of a batch."""
    answer: dict[str, Any] = {"status": status_of(outcome), "replayed": outcome.replayed}
    if isinstance(outcome, ServiceError):
        note_failure(call, outcome)
        answer["problem"] = problem(outcome, call.path, call.request_id)
    else:
        answer["reservation"] = RESERVATION.write(outcome.value)
    return answer


ROUTES = [
    reserve,
    reserve_batch,
    list_reservations,
    get_reservation,
    confirm_reservation,
    cancel_reservation,
    extend_reservation,
    list_reservation_movements,
]
