"""/v1/reservations: reserve, confirm, cancel, extend, refund; read and list."""

from typing import Any
from uuid import UUID

from litestar import get, post
from litestar.types import ASGIApp

from db import rows
from db.queries import lists, records
from db.vocabulary import State
from service.domain.commands import (
    Caller,
    Cancel,
    Command,
    Confirm,
    Extend,
    Outcome,
    R_co,
    RefundUnits,
    Reserve,
    merge_lines,
    reservation_id,
)
from service.domain.errors import (
    ExceedsHeld,
    ExceedsRefundable,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientStock,
    InvalidRequest,
    NotFound,
    ServiceError,
    UnknownSku,
)
from service.http.answers import (
    Answer,
    json_answer,
    page_answer,
    problem,
    problem_answer,
    resource_answer,
    single_answer,
    status_of,
)
from service.http.operation import Parameter, Success, documented
from service.http.query import Moment, Query, Step, Text, cursor_after
from service.http.requests import (
    HttpRequest,
    caller_of,
    check_source,
    header_list,
    identifier,
    read_batch,
    read_body,
    read_optional_body,
    seq_of,
    services_of,
)
from service.http.routes.endpoint import endpoint
from service.http.routes.parameters import (
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    LIMIT,
    NAME,
    OF_RESERVATIONS,
    OF_STEPS,
    cursor,
)
from service.http.schemas import (
    BatchAnswer,
    MovementAnswer,
    RefundAnswer,
    ReservationAnswer,
    refund_answer,
    reservation_answer,
)
from service.input.bodies import (
    BatchBody,
    ConfirmBody,
    ExtendBody,
    LineBody,
    NothingBody,
    RefundBody,
    ReserveBody,
)
from service.input.parsing import InvalidEntry

MOVED = Success(200, "Done, or done before.", ReservationAnswer, ("ETag", "Idempotency-Replayed"))
CHOSEN_VERSIONS = (4, 7)  # random and time-ordered; derived ones have version 5
LIFECYCLE_ERRORS = (IllegalTransition, NotFound)


@post(
    "/v1/reservations",
    opt=documented(
        "Reserve",
        Success(201, "Reserved.", ReservationAnswer, ("Location", "ETag")),
        Success(
            200,
            "Reserved before; as it is now.",
            ReservationAnswer,
            ("Location", "ETag", "Idempotency-Replayed"),
        ),
        scope="reserve",
        body=ReserveBody,
        parameters=(IDEMPOTENCY_KEY,),
        errors=(InsufficientStock, UnknownSku, IdempotencyMismatch),
    ),
)
@endpoint
async def reserve(request: HttpRequest) -> ASGIApp:
    """Take units of one or more SKUs, all lines or none: as a hold, or for good."""
    caller = await caller_of(request, "reserve")
    waited_seconds = await services_of(request).coalescer.wait_for_space()
    body = await read_body(request, ReserveBody)
    command = _reserve(caller, body, seq_of(request, body.seq))
    return _reserved(await _submit(request, command, waited_seconds), request)


@post(
    "/v1/reservations/batch",
    opt=documented(
        "Reserve many",
        Success(200, "Each entry's result, in order.", BatchAnswer),
        scope="reserve",
        body=BatchBody,
    ),
)
@endpoint
async def reserve_batch(request: HttpRequest) -> ASGIApp:
    """Carry out up to 1,000 reservations as if they were sent one after another."""
    caller = await caller_of(request, "reserve")
    entries = [_entry(caller, entry) for entry in await read_batch(request)]
    commands = [entry for entry in entries if isinstance(entry, Reserve)]
    outcomes = iter(await services_of(request).coalescer.submit(commands) if commands else [])
    instance = request.scope["path"]
    results = [
        _result(entry if isinstance(entry, ServiceError) else next(outcomes), instance)
        for entry in entries
    ]
    return json_answer(200, {"results": results})


@get(
    "/v1/reservations",
    opt=documented(
        "List reservations",
        Success(200, "A page, in order of creation.", ReservationAnswer, is_list=True),
        scope="read",
        parameters=(
            Parameter("source", NAME, "Only of this source."),
            Parameter("seq", NAME, "Only with this seq."),
            Parameter("state", {"enum": list(State)}, "Only in this state."),
            Parameter("sku", NAME, "Only with a line of this SKU."),
            Parameter("created_after", {"type": "string", "format": "date-time"}, "Exclusive."),
            Parameter("created_before", {"type": "string", "format": "date-time"}, "Exclusive."),
            LIMIT,
            cursor(OF_RESERVATIONS),
        ),
    ),
)
@endpoint
async def list_reservations(request: HttpRequest) -> ASGIApp:
    """List the caller's reservations; with the scope admin, everybody's."""
    caller = await caller_of(request, "read")
    query = Query(request)
    source = query.name("source")
    if not caller.every_source:
        check_source(caller, source)
        source = caller.source
    filters: dict[str, Any] = {
        "source": source,
        "seq": query.name("seq"),
        "state": query.choice("state", tuple(State)),
        "sku": query.place("sku"),
        "created_after": query.moment("created_after"),
        "created_before": query.moment("created_before"),
        "after": query.cursor(tuple[Moment, UUID]),
    }
    limit = query.limit()
    query.end()
    found, is_more = await services_of(request).database.read(
        lambda connection: lists.reservations(connection, limit=limit, **filters)
    )
    items = [reservation_answer(row) for row in found]
    last = found[-1] if is_more else None
    return page_answer(items, cursor_after((last.created_at, last.id)) if last else None)


@get(
    "/v1/reservations/{id:str}",
    opt=documented(
        "Read a reservation",
        Success(200, "As it is stored.", ReservationAnswer, ("ETag",)),
        Success(304, "The client has this version."),
        scope="read",
        parameters=(IF_NONE_MATCH,),
        errors=(NotFound,),
    ),
)
@endpoint
async def read_reservation(request: HttpRequest) -> ASGIApp:
    """Return a reservation; an overdue hold may read `held` until it is released."""
    row = await _visible(request)
    return single_answer(
        reservation_answer(row), row.version, header_list(request, b"if-none-match")
    )


@post(
    "/v1/reservations/{id:str}/confirm",
    status_code=200,
    opt=documented(
        "Confirm a hold",
        MOVED,
        scope="reserve",
        body=ConfirmBody,
        body_required=False,
        errors=(*LIFECYCLE_ERRORS, ExceedsHeld),
    ),
)
@endpoint
async def confirm(request: HttpRequest) -> ASGIApp:
    """Sell what is held, or the given lines of it; the rest is released in the same step."""
    caller = await caller_of(request, "reserve")
    body = await read_optional_body(request, ConfirmBody)
    lines = None if body.lines is None else _merged(body.lines)
    return await _moved(request, Confirm(caller, _id(request), lines))


@post(
    "/v1/reservations/{id:str}/cancel",
    status_code=200,
    opt=documented(
        "Cancel a hold",
        MOVED,
        scope="reserve",
        body=NothingBody,
        body_required=False,
        errors=LIFECYCLE_ERRORS,
    ),
)
@endpoint
async def cancel(request: HttpRequest) -> ASGIApp:
    """Give all units of a hold back to available."""
    caller = await caller_of(request, "reserve")
    await read_optional_body(request, NothingBody)
    return await _moved(request, Cancel(caller, _id(request)))


@post(
    "/v1/reservations/{id:str}/extend",
    status_code=200,
    opt=documented(
        "Extend a hold",
        Success(200, "Extended.", ReservationAnswer, ("ETag",)),
        scope="reserve",
        body=ExtendBody,
        errors=LIFECYCLE_ERRORS,
    ),
)
@endpoint
async def extend(request: HttpRequest) -> ASGIApp:
    """Move a hold's deadline to `hold_seconds` from now."""
    caller = await caller_of(request, "reserve")
    body = await read_body(request, ExtendBody)
    return await _moved(request, Extend(caller, _id(request), body.hold_seconds))


@post(
    "/v1/reservations/{id:str}/refunds",
    opt=documented(
        "Refund",
        Success(201, "Refunded.", RefundAnswer, ("Location", "ETag")),
        Success(
            200,
            "Refunded before.",
            RefundAnswer,
            ("Location", "ETag", "Idempotency-Replayed"),
        ),
        scope="reserve",
        body=RefundBody,
        parameters=(IDEMPOTENCY_KEY,),
        errors=(*LIFECYCLE_ERRORS, ExceedsRefundable, UnknownSku, IdempotencyMismatch),
    ),
)
@endpoint
async def refund(request: HttpRequest) -> ASGIApp:
    """Give units of a sale back to available: the given lines, or all that is left."""
    caller = await caller_of(request, "reserve")
    body = await read_body(request, RefundBody)
    check_source(caller, body.source)
    lines = None if body.lines is None else _merged(body.lines)
    seq = seq_of(request, body.seq)
    command = RefundUnits(caller, _id(request), seq, lines, body.reason)
    outcome = await _submit(request, command)
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    row = outcome.value
    address = f"/v1/reservations/{row.reservation_id}/refunds/{row.id}"
    return resource_answer(outcome, refund_answer(row), version=1, location=address)


@get(
    "/v1/reservations/{id:str}/refunds",
    opt=documented(
        "List a reservation's refunds",
        Success(200, "A page, in order of creation.", RefundAnswer, is_list=True),
        scope="read",
        parameters=(LIMIT, cursor(OF_RESERVATIONS)),
        errors=(NotFound,),
    ),
)
@endpoint
async def list_refunds(request: HttpRequest) -> ASGIApp:
    """List what was given back of a reservation."""
    row = await _visible(request)
    query = Query(request)
    after = query.cursor(tuple[Moment, UUID])
    limit = query.limit()
    query.end()
    found = await services_of(request).database.read(
        lambda connection: lists.refunds(connection, row.id, limit=limit + 1, after=after)
    )
    last = found[limit - 1] if len(found) > limit else None
    return page_answer(
        [refund_answer(refund_row) for refund_row in found[:limit]],
        cursor_after((last.created_at, last.id)) if last else None,
    )


@get(
    "/v1/reservations/{id:str}/refunds/{refund_id:str}",
    opt=documented(
        "Read a refund",
        Success(200, "It never changes.", RefundAnswer, ("ETag",)),
        Success(304, "The client has it."),
        scope="read",
        parameters=(IF_NONE_MATCH,),
        errors=(NotFound,),
    ),
)
@endpoint
async def read_refund(request: HttpRequest) -> ASGIApp:
    """Return one refund."""
    row = await _visible(request)
    id_ = identifier(request.scope["path_params"]["refund_id"], "refund")
    found = await services_of(request).database.read(
        lambda connection: lists.refunds(connection, row.id, limit=1, id_=id_)
    )
    if not found:
        raise NotFound("There is no such refund.")
    return single_answer(refund_answer(found[0]), 1, header_list(request, b"if-none-match"))


@get(
    "/v1/reservations/{id:str}/movements",
    opt=documented(
        "List a reservation's movements",
        Success(200, "A page, step by step.", MovementAnswer, is_list=True),
        scope="read",
        parameters=(LIMIT, cursor(OF_STEPS)),
        errors=(NotFound,),
    ),
)
@endpoint
async def list_movements(request: HttpRequest) -> ASGIApp:
    """List what a reservation moved, in the ledger's words."""
    row = await _visible(request)
    query = Query(request)
    after = query.cursor(tuple[Step, Text, Text])
    limit = query.limit()
    query.end()
    found = await services_of(request).database.read(
        lambda connection: lists.reservation_movements(
            connection, row.id, limit=limit + 1, after=after
        )
    )
    last = found[limit - 1] if len(found) > limit else None
    return page_answer(
        [movement._asdict() for movement in found[:limit]],
        cursor_after((last.reservation_version, last.sku, last.location)) if last else None,
    )


async def _submit(
    request: HttpRequest, command: Command[R_co], waited_seconds: float = 0.0
) -> Outcome[R_co]:
    coalescer = services_of(request).coalescer
    return (await coalescer.submit([command], waited_seconds=waited_seconds))[0]


async def _moved(request: HttpRequest, command: Command[rows.Reservation]) -> Answer:
    """Carry a transition out and return the reservation."""
    outcome = await _submit(request, command)
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    row = outcome.value
    return resource_answer(outcome, reservation_answer(row), version=row.version)


async def _visible(request: HttpRequest) -> rows.Reservation:
    """The reservation of the path, if the caller may see it. Raises `NotFound` alike if not."""
    caller = await caller_of(request, "read")
    id_ = _id(request)
    row = await services_of(request).database.read(
        lambda connection: records.find_reservation(connection, id_, caller.only_source)
    )
    if row is None:
        raise NotFound("There is no such reservation.")
    return row


def _id(request: HttpRequest) -> Any:
    return identifier(request.scope["path_params"]["id"])


def _merged(lines: list[LineBody]) -> tuple[rows.Line, ...]:
    return merge_lines([(line.sku, line.location, line.quantity) for line in lines])


def _reserve(caller: Caller, body: ReserveBody, seq: str) -> Reserve:
    check_source(caller, body.source)
    derived = reservation_id(caller.source, seq)
    _check_chosen(body.id, derived)
    return Reserve(
        source=caller.source,
        seq=seq,
        id=body.id,
        lines=_merged(body.lines),
        hold_seconds=body.hold_seconds,
        metadata=body.metadata,
        effective_id=body.id or derived,
    )


def _check_chosen(id_: UUID | None, derived: UUID) -> None:
    """Raise `InvalidRequest` for an id that another source could be going to derive."""
    if id_ is not None and id_ != derived and id_.version not in CHOSEN_VERSIONS:
        raise InvalidRequest.at(
            "id", "must be a UUID of version 4 or 7, or the one derived from this source and seq"
        )


def _entry(caller: Caller, entry: ReserveBody | InvalidEntry) -> Reserve | ServiceError:
    """A batch's entry as a command, or why it is none."""
    if isinstance(entry, InvalidEntry):
        return entry.error
    try:
        if entry.seq is None:
            raise InvalidRequest.at("seq", "is missing")
        return _reserve(caller, entry, entry.seq)
    except ServiceError as error:
        return error.as_value()


def _reserved(outcome: Outcome[rows.Reservation], request: HttpRequest) -> Answer:
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    row = outcome.value
    return resource_answer(
        outcome,
        reservation_answer(row),
        version=row.version,
        location=f"/v1/reservations/{row.id}",
    )


def _result(outcome: Outcome[rows.Reservation], instance: str) -> dict[str, Any]:
    if isinstance(outcome, ServiceError):
        return {
            "status": status_of(outcome),
            "replayed": outcome.replayed,
            "problem": problem(outcome, instance),
        }
    row = outcome.value
    return {
        "status": status_of(outcome),
        "replayed": outcome.replayed,
        "reservation": reservation_answer(row),
    }


ROUTES = [
    reserve,
    reserve_batch,
    list_reservations,
    read_reservation,
    confirm,
    cancel,
    extend,
    refund,
    list_refunds,
    read_refund,
    list_movements,
]
