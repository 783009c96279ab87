"""What pages show, as far as the key of the session may look."""

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from db.queries import lists, records
from db.rows import Refund, Reservation
from service.domain.errors import InvalidRequest, NotFound
from service.http.page.forms import Form
from service.http.page.sessions import SEQ_PREFIX, Session
from service.http.query import Moment, Query, Text, cursor_after
from service.http.requests import HttpRequest, identifier, services_of
from service.input.names import name_at

ROWS_MAX = 50


async def stock_of(request: HttpRequest, session: Session, query: Query) -> dict[str, Any]:
    """Return the stock that the query searches for, a page of it, if the key may look."""
    search = {"sku_prefix": query.text("sku_prefix") or "", "low": query.text("low") == "true"}
    after = query.cursor(tuple[Moment, Text, Text])
    if not session.allows("read"):
        return {"rows": None, "search": search, "next_cursor": None}
    found = await services_of(request).database.read(
        lambda connection: lists.stock(
            connection,
            limit=ROWS_MAX + 1,
            after=after,
            sku_prefix=str(search["sku_prefix"]) or None,
            low=True if search["low"] else None,
        )
    )
    rows = [row for _, row in found[:ROWS_MAX]]
    is_more = len(found) > ROWS_MAX
    last = (found[ROWS_MAX - 1][0], *rows[-1].key) if is_more else None
    return {"rows": rows, "search": search, "next_cursor": last and cursor_after(last)}


async def named_reservation(request: HttpRequest, session: Session, form: Form) -> Reservation:
    """Return the reservation that a form names by its id or its seq, if the caller may move it.

    Raises `InvalidRequest` and `NotFound`.
    """
    name = form.get("reservation", "")
    if not name:
        raise InvalidRequest.at("reservation", "must be named, by its id or its seq")
    name_at("reservation", name)
    source = session.caller.only_source

    async def work(connection: AsyncConnection) -> list[Reservation]:
        row = (
            await records.find_reservation(connection, UUID(name), source) if _is_id(name) else None
        )
        if row is not None:
            return [row]
        return (await lists.reservations(connection, limit=2, source=source, seq=name))[0]

    found = await services_of(request).database.read(work)
    if len(found) > 1:
        raise InvalidRequest.at(
            "reservation", "must be named by its id: several sources have this seq"
        )
    if not found:
        raise NotFound("There is no such reservation.")
    return found[0]


async def reservation_of(request: HttpRequest, session: Session) -> Reservation:
    """Return the reservation of the path. Raises `NotFound`, also for another source's."""
    id_ = identifier(request.scope["path_params"]["id"])
    row = await services_of(request).database.read(
        lambda connection: records.find_reservation(connection, id_, session.caller.only_source)
    )
    if row is None:
        raise NotFound("There is no such reservation.")
    return row


def check_may_look(session: Session, row: Reservation | Refund) -> None:
    """Raise `Forbidden` without the scope read, unless the caller's own forms have made it."""
    is_result = row.source == session.caller.source and row.seq.startswith(SEQ_PREFIX)
    if not (is_result and session.allows("reserve")):
        session.require("read")


def _is_id(name: str) -> bool:
    try:
        identifier(name)
    except NotFound:
        return False
    return True
