"""The data that a page shows, limited by the scopes of the session's key."""

from functools import partial
from typing import Any
from uuid import UUID

from db.queries import lists, records
from db.rows import Refund, Reservation
from db.session.database import AsyncConnection
from db.vocabulary import Scope
from service.domain.errors import InvalidRequest, NotFound
from service.http.call import Call, identifier
from service.http.page.forms import Form
from service.http.page.sessions import SEQ_PREFIX, Session
from service.http.reading.cursors import STOCK_BY_CREATION, page_of, read_cursor
from service.http.reading.parameters import text_at
from service.http.reading.query import Query
from service.input.names import name_at

ROWS_MAX = 50


async def stock_of(call: Call[Any], session: Session, query: Query) -> dict[str, Any]:
    """Return a page of the stock that the query searches for, if the key may read it."""
    prefix = query.take("sku_prefix", text_at)
    search = {"sku_prefix": prefix or "", "low": query.take("low", text_at) == "true"}
    after = query.take("cursor", partial(read_cursor, STOCK_BY_CREATION))
    if not session.allows(Scope.READ):
        return {"rows": None, "search": search, "next_cursor": None}
    found = await call.read(
        lambda connection: lists.stock(
            connection,
            limit=ROWS_MAX + 1,
            after=after,
            sku_prefix=prefix or None,
            low=True if search["low"] else None,
        )
    )
    page = page_of(found, ROWS_MAX, STOCK_BY_CREATION)
    rows = [row for _, row in page.rows]
    return {"rows": rows, "search": search, "next_cursor": page.next_cursor}


async def named_reservation(call: Call[Any], session: Session, form: Form) -> Reservation:
    """Return the reservation that a form names by its id or its seq, if the caller may change it.

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

    found = await call.read(work)
    if len(found) > 1:
        raise InvalidRequest.at(
            "reservation", "must be named by its id: several sources have this seq"
        )
    if not found:
        raise NotFound("There is no such reservation.")
    call.reach(found[0].source)
    return found[0]


async def reservation_of(call: Call[Any], session: Session) -> Reservation:
    """Return the reservation of the path. Raises `NotFound`, also for another source's."""
    id_ = call.reservation_id
    row = await call.read(
        lambda connection: records.find_reservation(connection, id_, session.caller.only_source)
    )
    if row is None:
        raise NotFound("There is no such reservation.")
    call.reach(row.source)
    return row


def check_may_look(session: Session, row: Reservation | Refund) -> None:
    """Raise `Forbidden` unless the key has the scope read or the caller's form made the row."""
    is_result = row.source == session.caller.source and row.seq.startswith(SEQ_PREFIX)
    if not (is_result and session.allows(Scope.RESERVE)):
        session.require(Scope.READ)


def _is_id(name: str) -> bool:
    try:
        identifier(name, "reservation")
    except NotFound:
        return False
    return True
