"""The routes of the operator's page: look at stock, reserve and refund by hand, without a script.

The answer to a form redirects the browser to the result. The answer to a form that was refused is
the same page with the mistakes, and has the status that the API would give.
"""

from typing import Any, cast

from litestar import Router
from litestar.exceptions import HTTPException

from db.queries import lists, records
from db.vocabulary import Scope
from service.domain.commands import Done, Outcome, R_co
from service.domain.errors import (
    ExceedsRefundable,
    Forbidden,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientStock,
    InvalidRequest,
    NotFound,
    ServiceError,
    Unauthenticated,
    UnknownSku,
)
from service.http.call import Call
from service.http.failures import show_failure_on_page
from service.http.page import rendering
from service.http.page.forms import Form, complaints, read_form, refund_of, reserve_of
from service.http.page.lookups import check_may_look, named_reservation, reservation_of, stock_of
from service.http.page.sessions import (
    FORM_REFUSED,
    Session,
    session_of,
    sign_in,
    sign_out,
)
from service.http.page_route import Entry, open_page, page
from service.http.reading.parameters import text_at
from service.http.reading.query import Query
from service.http.responses import REPLAYED, Response
from service.http.uses import Logged

CORRECTABLE = (InvalidRequest, NotFound, UnknownSku, IllegalTransition, ExceedsRefundable)
"""The refusals after which the form is shown again, so that it can be corrected."""


@open_page("GET", "/sign-in")
async def sign_in_page(call: Call[Any]) -> Response:  # noqa: ARG001
    """Ask for a key."""
    return rendering.page("sign_in.html", 200, error=None)


@open_page("POST", "/sign-in")
async def begin_session(call: Call[Any]) -> Response:
    """Begin a session with the key in the form."""
    form = await read_form(call)
    return rendering.see_other("/", await sign_in(call, form.get("key", "")))


@open_page("POST", "/sign-out")
async def end_session(call: Call[Any]) -> Response:
    """End the session, if there is one."""
    try:
        session = await session_of(call)
    except Unauthenticated:
        return rendering.see_other("/sign-in")
    form = await read_form(call)
    cookie = await sign_out(call, session, form.get("token", ""))
    return rendering.see_other("/sign-in", cookie)


@page("GET", "/", entry=Entry.SESSION, logged=Logged.EACH_USE)
async def home(call: Call[Any], session: Session) -> Response:
    """Show stock and the forms; the query filters the stock and may fill in a form."""
    return await _home(call, session)


@open_page("GET", "/reserve", "/refund", "/sign-out")
async def form_page(call: Call[Any]) -> Response:  # noqa: ARG001
    """Redirect a browser that returns to the address of a form to the page with the form."""
    return rendering.see_other("/")


@page("POST", "/reserve", entry=Entry.RESERVE, logged=Logged.NO_USE)
async def reserve(call: Call[Any], session: Session) -> Response:
    """Reserve the units in the form, once for each token."""
    form, seq = await _read_submission(call, session, "reserve")
    try:
        command = reserve_of(session, form, seq)
        done = _done_or_raise(await call.submit(command))
    except InsufficientStock as refusal:  # a refusal is stored, so it is a result to show
        return _redirect_to(f"/reservations/{refusal.fields['reservation_id']}", refusal.replayed)
    except IdempotencyMismatch as error:
        return _show_sent_before(session, error, f"/reservations/{command.effective_id}")
    except CORRECTABLE as error:
        return await _home(call, session, error=error, reserve=form)
    row = done.value
    return _redirect_to(f"/reservations/{row.id}", done.replayed)


@page("POST", "/refund", entry=Entry.RESERVE, logged=Logged.OTHER_SOURCES)
async def refund(call: Call[Any], session: Session) -> Response:
    """Refund the units in the form, once for each token."""
    form, seq = await _read_submission(call, session, "refund")
    try:
        reservation = await named_reservation(call, session, form)
        done = _done_or_raise(await call.submit(refund_of(session, form, reservation, seq)))
    except IdempotencyMismatch as error:
        return _show_sent_before(session, error, "/")
    except CORRECTABLE as error:
        return await _home(call, session, error=error, refund=form)
    row = done.value
    return _redirect_to(f"/reservations/{row.reservation_id}/refunds/{row.id}", done.replayed)


@page("GET", "/reservations/{id}", entry=Entry.RESULT, logged=Logged.OTHER_SOURCES)
async def reservation_page(call: Call[Any], session: Session) -> Response:
    """Show a reservation as it is now, with a form for its refund if it can be refunded."""
    row = await reservation_of(call, session)
    check_may_look(session, row)
    return _page(session, "reservation.html", reservation=row)


@page(
    "GET", "/reservations/{id}/refunds/{refund_id}", entry=Entry.RESULT, logged=Logged.OTHER_SOURCES
)
async def refund_page(call: Call[Any], session: Session) -> Response:
    """Show a refund."""
    row = await reservation_of(call, session)
    id_ = call.refund_id
    found = await call.read(lambda connection: lists.refunds(connection, row.id, limit=1, id_=id_))
    if not found:
        raise NotFound("There is no such refund.")
    check_may_look(session, found[0])
    return _page(session, "refund.html", refund=found[0], reservation=row)


@open_page("GET", "/assets/{name}")
async def asset(call: Call[Any]) -> Response:
    """Return the style sheet or the icon."""
    found = rendering.asset(call.segment("name"))
    if found is None:
        raise NotFound("There is nothing at this address.")
    return found


async def _home(
    call: Call[Any],
    session: Session,
    *,
    error: ServiceError | None = None,
    reserve: Form | None = None,
    refund: Form | None = None,
) -> Response:
    """The page with stock and both forms, filled from the query or from the form that was sent."""
    query = Query(call.scope["query_string"])
    filled = {name: query.take(name, text_at) or "" for name in ("sku", "location")}
    return _page(
        session,
        "home.html",
        status=error.status if error else 200,
        error=error,
        complaints=complaints(error) if error else [],
        reserve=reserve or filled,
        refund=refund or {},
        **await stock_of(call, session, query),
    )


def _page(session: Session, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for a visitor with a session; its forms get a token."""
    actions = ["sign-out", *(("reserve", "refund") if session.allows(Scope.RESERVE) else ())]
    token = session.issue_token(*actions)
    return rendering.page(template, status, session=session, token=token, **values)


async def _read_submission(call: Call[Any], session: Session, action: str) -> tuple[Form, str]:
    """The values and the seq of a form that changes stock.

    Raises `Forbidden` and the other refusals of a form. The result of a used token is shown
    even after the token has expired.
    """
    form = await read_form(call)
    token = session.read_token(action, form.get("token", ""))
    if token.is_expired and not await call.read(
        lambda connection: records.is_identity_used(connection, session.caller.source, token.seq)
    ):
        raise Forbidden(FORM_REFUSED)
    return form, token.seq


def _done_or_raise(outcome: Outcome[R_co]) -> Done[R_co]:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _redirect_to(path: str, replayed: bool) -> Response:
    return rendering.see_other(path, *([REPLAYED] if replayed else []))


def _show_sent_before(session: Session, error: IdempotencyMismatch, first: str) -> Response:
    """The page for a form that had its effect before and was sent again with other values."""
    return _page(session, "sent_before.html", status=error.status, error=error, first=first)


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
            {HTTPException: show_failure_on_page, Exception: show_failure_on_page},
        ),
    )
]
