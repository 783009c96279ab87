"""The operator's page: look at stock, reserve and refund by hand, without any script.

A form is answered by sending the browser on to its result; a refused one by the same page with
what is wrong, under the status the API would have given.
"""

from typing import Any, cast

import structlog
from litestar import Router, get, post
from litestar.types import ASGIApp

from db.queries import lists, records
from db.session.database import DatabaseError
from service.domain.commands import Command, Done, Outcome, R_co
from service.domain.errors import (
    ExceedsRefundable,
    Forbidden,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientStock,
    InternalError,
    InvalidRequest,
    NotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
    UnknownSku,
)
from service.http.answers import REPLAYED, Answer, Header
from service.http.page import rendering
from service.http.page.forms import Form, complaints, read_form, refund_of, reserve_of
from service.http.page.lookups import check_may_look, named_reservation, reservation_of, stock_of
from service.http.page.sessions import (
    FORM_REFUSED,
    Session,
    check_same_site,
    session_of,
    sign_in,
    sign_out,
)
from service.http.query import Query
from service.http.requests import (
    HttpRequest,
    identifier,
    note_refusal,
    prefers_html,
    services_of,
)
from service.http.routes.endpoint import endpoint

log = structlog.get_logger()

CORRECTABLE = (InvalidRequest, NotFound, UnknownSku, IllegalTransition, ExceedsRefundable)
"""What the form is shown again for: it was refused as it was typed."""

API = (b"v1", b"health", b"metrics", b"schema", b"problems")
"""What the API's addresses begin with. All others are the page's, also those that nothing has."""


@get("/sign-in")
@endpoint
async def sign_in_page(request: HttpRequest) -> ASGIApp:  # noqa: ARG001
    """Ask for a key."""
    return rendering.page("sign_in.html", 200, error=None)


@post("/sign-in")
@endpoint
async def begin_session(request: HttpRequest) -> ASGIApp:
    """Begin a session with the key that was typed."""
    check_same_site(request)
    form = await read_form(request)
    return rendering.see_other("/", await sign_in(request, form.get("key", "")))


@post("/sign-out")
@endpoint
async def end_session(request: HttpRequest) -> ASGIApp:
    """End the session; one that is over stays so."""
    check_same_site(request)
    try:
        session = await session_of(request)
    except Unauthenticated:
        return rendering.see_other("/sign-in")
    form = await read_form(request)
    cookie = await sign_out(request, session, form.get("token", ""))
    return rendering.see_other("/sign-in", cookie)


@get("/")
@endpoint
async def home(request: HttpRequest) -> ASGIApp:
    """Show stock and the forms; the query searches, and may fill a form in."""
    return await _home(request, await session_of(request))


@get(["/reserve", "/refund", "/sign-out"])
@endpoint
async def form_page(request: HttpRequest) -> ASGIApp:  # noqa: ARG001
    """Send whoever comes back to a form's address to the page that has the form."""
    return rendering.see_other("/")


@post("/reserve")
@endpoint
async def reserve(request: HttpRequest) -> ASGIApp:
    """Reserve by hand, once for each token."""
    session, form, seq = await _submitted(request, "reserve")
    try:
        command = reserve_of(session, form, seq)
        done = _accepted(await _submit(request, command))
    except InsufficientStock as refusal:  # it is remembered, so it is a result as well
        return _sent_on(f"/reservations/{refusal.fields['reservation_id']}", refusal.replayed)
    except IdempotencyMismatch as error:
        return _sent_before(session, error, f"/reservations/{command.effective_id}")
    except CORRECTABLE as error:
        return await _home(request, session, error=error, reserve=form)
    row = done.value
    return _sent_on(f"/reservations/{row.id}", done.replayed)


@post("/refund")
@endpoint
async def refund(request: HttpRequest) -> ASGIApp:
    """Refund by hand, once for each token."""
    session, form, seq = await _submitted(request, "refund")
    try:
        reservation = await named_reservation(request, session, form)
        done = _accepted(await _submit(request, refund_of(session, form, reservation, seq)))
    except IdempotencyMismatch as error:
        return _sent_before(session, error, "/")
    except CORRECTABLE as error:
        return await _home(request, session, error=error, refund=form)
    row = done.value
    return _sent_on(f"/reservations/{row.reservation_id}/refunds/{row.id}", done.replayed)


@get("/reservations/{id:str}")
@endpoint
async def reservation_page(request: HttpRequest) -> ASGIApp:
    """Show a reservation as it is now, and offer to refund what can be."""
    session = await session_of(request)
    row = await reservation_of(request, session)
    check_may_look(session, row)
    return _page(session, "reservation.html", reservation=row)


@get("/reservations/{id:str}/refunds/{refund_id:str}")
@endpoint
async def refund_page(request: HttpRequest) -> ASGIApp:
    """Show a refund."""
    session = await session_of(request)
    row = await reservation_of(request, session)
    id_ = identifier(request.scope["path_params"]["refund_id"], "refund")
    found = await services_of(request).database.read(
        lambda connection: lists.refunds(connection, row.id, limit=1, id_=id_)
    )
    if not found:
        raise NotFound("There is no such refund.")
    check_may_look(session, found[0])
    return _page(session, "refund.html", refund=found[0], reservation=row)


@get("/assets/{name:str}")
@endpoint
async def asset(request: HttpRequest) -> ASGIApp:
    """Return the style sheet or the icon."""
    found = rendering.asset(str(request.scope["path_params"]["name"]))
    if found is None:
        raise NotFound("There is nothing at this address.")
    return found


async def _home(
    request: HttpRequest,
    session: Session,
    *,
    error: ServiceError | None = None,
    reserve: Form | None = None,
    refund: Form | None = None,
) -> Answer:
    """The page with stock and both forms, filled in by the query or with what was typed before."""
    query = Query(request)
    filled = {name: query.text(name) or "" for name in ("sku", "location")}
    return _page(
        session,
        "home.html",
        status=error.status if error else 200,
        error=error,
        complaints=complaints(error) if error else [],
        reserve=reserve or filled,
        refund=refund or {},
        **await stock_of(request, session, query),
    )


def _page(session: Session, template: str, *, status: int = 200, **values: Any) -> Answer:
    """A page for who is signed in, its forms with a token of their own."""
    actions = ["sign-out", *(("reserve", "refund") if session.allows("reserve") else ())]
    token = session.issue_token(*actions)
    return rendering.page(template, status, session=session, token=token, **values)


async def _submitted(request: HttpRequest, action: str) -> tuple[Session, Form, str]:
    """Who sent a form that changes stock, what was typed, and the seq of what it is to do.

    Raises what forbids it. A token that has expired still shows what it did before.
    """
    check_same_site(request)
    session = await session_of(request)
    session.require("reserve")
    form = await read_form(request)
    token = session.read_token(action, form.get("token", ""))
    if token.is_expired and not await services_of(request).database.read(
        lambda connection: records.is_identity_used(connection, session.caller.source, token.seq)
    ):
        raise Forbidden(FORM_REFUSED)
    return session, form, token.seq


async def _submit(request: HttpRequest, command: Command[R_co]) -> Outcome[R_co]:
    return (await services_of(request).coalescer.submit([command]))[0]


def _accepted(outcome: Outcome[R_co]) -> Done[R_co]:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _sent_on(path: str, replayed: bool) -> Answer:
    return rendering.see_other(path, *([REPLAYED] if replayed else []))


def _sent_before(session: Session, error: IdempotencyMismatch, first: str) -> Answer:
    """The page for a form that has had its effect and comes again with other values."""
    return _page(session, "sent_before.html", status=error.status, error=error, first=first)


def wants_page(request: HttpRequest) -> bool:
    """True when a browser asks for an address of the page's, be there anything or not."""
    room = request.scope["raw_path"].lstrip(b"/").partition(b"/")[0]
    return room not in API and prefers_html(request)


def refuse(request: HttpRequest, error: ServiceError, *more: Header) -> Answer:
    """Return an error as a page, with further headers; who is not signed in is asked to."""
    if isinstance(error, Unauthenticated):
        if request.method == "GET":
            return rendering.see_other("/sign-in")
        challenge = (b"www-authenticate", b"Bearer")
        return rendering.page("sign_in.html", error.status, challenge, error=error)
    wait = error.retry_after_seconds
    headers = [*more] if wait is None else [*more, (b"retry-after", b"%d" % wait)]
    return rendering.page("error.html", error.status, *headers, error=error)


def _refuse_known(request: HttpRequest, error: ServiceError) -> Answer:
    note_refusal(request, error)
    return refuse(request, error)


def _refuse_database(request: HttpRequest, error: DatabaseError) -> Answer:  # noqa: ARG001
    return refuse(request, Unavailable("The database did not answer."))


def _fail(request: HttpRequest, error: Exception) -> Answer:
    log.error("page_failed", exc_info=error)
    return refuse(request, InternalError("The service failed."))


ROUTES = [
    Router(
        "/",
        route_handlers=[
            home,
            sign_in_page,
            begin_session,
            end_session,
            form_page,
            reserve,
            refund,
            reservation_page,
            refund_page,
            asset,
        ],
        exception_handlers=cast(
            "Any",
            {ServiceError: _refuse_known, DatabaseError: _refuse_database, Exception: _fail},
        ),
    )
]
