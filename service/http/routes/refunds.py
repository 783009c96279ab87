"""/v1/reservations/{id}/refunds: refund; read and list."""

from db import rows
from db.queries import lists
from db.vocabulary import Scope
from service.domain.commands import Outcome, RefundUnits
from service.domain.errors import (
    ExceedsRefundable,
    IdempotencyMismatch,
    IllegalTransition,
    NotFound,
    UnknownSku,
)
from service.http.call import Call
from service.http.operation import Found, Success, operation
from service.http.reading.body_kinds import json_body, merged_lines
from service.http.reading.cursors import BY_CREATION, Page, listed, page_of
from service.http.reading.parameters import IDEMPOTENCY_KEY, IF_NONE_MATCH
from service.http.resources import REFUND
from service.http.routes.reservations import visible_reservation
from service.http.uses import Logged
from service.input.bodies import RefundBody


@operation(
    "POST",
    "/v1/reservations/{id}/refunds",
    "Refund",
    Success(201, "Refunded.", REFUND, ("Location", "ETag")),
    Success(200, "Refunded before.", REFUND, ("Location", "ETag", "Idempotency-Replayed")),
    scope=Scope.RESERVE,
    logged=Logged.OTHER_SOURCES,
    body=json_body(RefundBody),
    parameters=(IDEMPOTENCY_KEY,),
    errors=(IllegalTransition, NotFound, ExceedsRefundable, UnknownSku, IdempotencyMismatch),
)
async def refund_reservation(call: Call[RefundBody]) -> Outcome[rows.Refund]:
    """Give units of a sale back to available: the given lines, or all units that are left."""
    body = call.body
    call.check_source(body.source)
    seq = call.seq(body.seq)
    lines = None if body.lines is None else merged_lines(body.lines)
    return await call.submit(RefundUnits(call.caller, call.reservation_id, seq, lines, body.reason))


@operation(
    "GET",
    "/v1/reservations/{id}/refunds",
    "List a reservation's refunds",
    Success(200, "A page, in order of creation.", REFUND, is_list=True),
    scope=Scope.READ,
    logged=Logged.OTHER_SOURCES,
    parameters=listed(BY_CREATION),
    errors=(NotFound,),
)
async def list_refunds(call: Call[None]) -> Page:
    """List the refunds of a reservation."""
    row, limit = await visible_reservation(call), call.query["limit"]
    found = await call.read(
        lambda connection: lists.refunds(
            connection, row.id, limit=limit + 1, after=call.query["cursor"]
        )
    )
    return page_of(found, limit, BY_CREATION)


@operation(
    "GET",
    "/v1/reservations/{id}/refunds/{refund_id}",
    "Read a refund",
    Success(200, "The refund, which never changes.", REFUND, ("ETag",)),
    Success(304, "The client has this version."),
    scope=Scope.READ,
    logged=Logged.OTHER_SOURCES,
    parameters=(IF_NONE_MATCH,),
    errors=(NotFound,),
)
async def get_refund(call: Call[None]) -> Found:
    """Return one refund."""
    row, id_ = await visible_reservation(call), call.refund_id
    found = await call.read(lambda connection: lists.refunds(connection, row.id, limit=1, id_=id_))
    if not found:
        raise NotFound("There is no such refund.")
    return Found(found[0])


ROUTES = [refund_reservation, list_refunds, get_refund]
