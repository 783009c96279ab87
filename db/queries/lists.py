"""Lists: filtered, in order of creation, a page at a time from a cursor on; and what is overdue."""

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVarTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, exists, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from db import models
from db.ledger.load import CLOCK, load
from db.models import Adjustment, Movement, ReservationLine
from db.rows import Line, Refund, Reservation, Stock, Wanted

Columns = TypeVarTuple("Columns")
Conditions = Sequence[tuple[Any, Callable[[Any], ColumnElement[bool]]]]
"""A filter's value and the condition it makes; a value of None makes none."""

RESERVATION = models.Reservation
STOCK = models.Stock
REFUND = models.Refund
REFUND_LINE = models.RefundLine

STOCK_COLUMNS = (
    STOCK.sku,
    STOCK.location,
    STOCK.name,
    STOCK.available,
    STOCK.held,
    STOCK.low_stock_at,
    STOCK.version,
    STOCK.updated_at,
)

PAGE_LINES_MAX = 10_000
"""As many lines as a batch may have: to read and write them takes tens of milliseconds."""

OVERDUE_HOLDS = text(f"""
    SELECT id FROM reservation
    WHERE state = 'held' AND expires_at <= {CLOCK}
    ORDER BY expires_at, id
    LIMIT :holds_max
""")


async def overdue_holds(connection: AsyncConnection, holds_max: int) -> list[UUID]:
    """Return the ids of overdue holds, the oldest first."""
    return list(await connection.scalars(OVERDUE_HOLDS, {"holds_max": holds_max}))


async def reservation(
    connection: AsyncConnection, id_: UUID, source: str | None = None
) -> Reservation | None:
    """Return one reservation as it is stored; with `source` only if it is that source's."""
    wanted = Wanted()
    if source is None:
        wanted.reservations.add(id_)
    else:
        wanted.own_reservations.add((id_, source))
    return (await load(connection, wanted)).reservations.get(id_)


async def reservations(
    connection: AsyncConnection,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    source: str | None = None,
    seq: str | None = None,
    state: str | None = None,
    sku: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> tuple[list[Reservation], bool]:
    """Return at most `limit` reservations created after the one at `after`, and if there are more.

    Fewer come when they have many lines: a page ends before it has more than `PAGE_LINES_MAX`.
    """
    lines = select(func.count()).where(ReservationLine.reservation_id == RESERVATION.id)
    ids = (
        select(RESERVATION.id, lines.scalar_subquery())
        .order_by(RESERVATION.created_at, RESERVATION.id)
        .limit(limit + 1)
    )
    conditions: Conditions = [
        (source, lambda value: RESERVATION.source == value),
        (seq, lambda value: RESERVATION.seq == value),
        (state, lambda value: RESERVATION.state == value),
        (created_after, lambda value: RESERVATION.created_at > value),
        (created_before, lambda value: RESERVATION.created_at < value),
        (after, lambda value: tuple_(RESERVATION.created_at, RESERVATION.id) > value),
        (
            sku,
            lambda value: exists().where(
                ReservationLine.reservation_id == RESERVATION.id, ReservationLine.sku == value
            ),
        ),
    ]
    counted = (await connection.execute(_filtered(ids, conditions))).all()
    page = _fitting(counted[:limit])
    found = (await load(connection, Wanted(reservations=set(page)))).reservations
    return [found[id_] for id_ in page if id_ in found], len(page) < len(counted)


def _fitting(counted: Sequence[Row[UUID, int]]) -> list[UUID]:
    """As many ids from the first on as have few enough lines together, but one at least."""
    lines = itertools.accumulate(count for _, count in counted)
    fitting = sum(total <= PAGE_LINES_MAX for total in lines)
    return [id_ for id_, _ in counted[: max(fitting, 1)]]


async def has_happened(connection: AsyncConnection, source: str, seq: str) -> bool:
    """True when there is a reservation or a refund of that identity."""
    reserved = exists().where(RESERVATION.source == source, RESERVATION.seq == seq)
    refunded = exists().where(REFUND.source == source, REFUND.seq == seq)
    return bool(await connection.scalar(select(reserved | refunded)))


async def refunds(
    connection: AsyncConnection,
    reservation_id: UUID,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    id_: UUID | None = None,
) -> list[Refund]:
    """Return at most `limit` refunds of a reservation made after the one at `after`."""
    statement = (
        select(REFUND)
        .with_only_columns(
            REFUND.id,
            REFUND.reservation_id,
            REFUND.source,
            REFUND.seq,
            REFUND.entire,
            REFUND.reason,
            REFUND.created_at,
        )
        .where(REFUND.reservation_id == reservation_id)
        .order_by(REFUND.created_at, REFUND.id)
        .limit(limit)
    )
    conditions: Conditions = [
        (after, lambda value: tuple_(REFUND.created_at, REFUND.id) > value),
        (id_, lambda value: REFUND.id == value),
    ]
    rows = (await connection.execute(_filtered(statement, conditions))).all()
    lines: dict[UUID, list[Line]] = {row.id: [] for row in rows}
    given = await connection.execute(
        select(REFUND_LINE.refund_id, REFUND_LINE.sku, REFUND_LINE.location, REFUND_LINE.quantity)
        .where(REFUND_LINE.reservation_id == reservation_id, REFUND_LINE.refund_id.in_(lines))
        .order_by(REFUND_LINE.sku, REFUND_LINE.location)
    )
    for refund_id, sku, location, quantity in given:
        lines[refund_id].append(Line(sku, location, quantity))
    return [Refund(*row[:7], tuple(lines[row.id])) for row in rows]


async def stock(
    connection: AsyncConnection,
    *,
    limit: int,
    after: tuple[datetime, str, str] | None = None,
    sku: str | None = None,
    location: str | None = None,
    sku_prefix: str | None = None,
    low: bool | None = None,
) -> list[tuple[datetime, Stock]]:
    """Return at most `limit` stock rows, each with its moment of creation."""
    statement = (
        select(STOCK.created_at, *STOCK_COLUMNS)
        .where(STOCK.deleted_at.is_(None))
        .order_by(STOCK.created_at, STOCK.sku, STOCK.location)
        .limit(limit)
    )
    is_low = (STOCK.available <= STOCK.low_stock_at).is_(True)
    conditions: Conditions = [
        (after, lambda value: tuple_(STOCK.created_at, STOCK.sku, STOCK.location) > value),
        (sku, lambda value: STOCK.sku == value),
        (location, lambda value: STOCK.location == value),
        (sku_prefix, lambda value: STOCK.sku.startswith(value, autoescape=True)),
        (low, lambda value: is_low if value else ~is_low),
    ]
    rows = await connection.execute(_filtered(statement, conditions))
    return [(row[0], Stock(*row[1:])) for row in rows]


async def stock_exists(connection: AsyncConnection, sku: str, location: str) -> bool:
    """True when there is, or once was, such a stock row: its history stays."""
    statement = select(STOCK.version).where(STOCK.sku == sku, STOCK.location == location)
    return await connection.scalar(statement) is not None


async def stock_movements(
    connection: AsyncConnection, sku: str, location: str, *, limit: int, after: int | None = None
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return at most `limit` movements of a stock row, from version `after` on."""
    statement = (
        _movements()
        .where(Movement.sku == sku, Movement.location == location)
        .order_by(Movement.version)
        .limit(limit)
    )
    conditions: Conditions = [(after, lambda value: Movement.version > value)]
    return (await connection.execute(_filtered(statement, conditions))).all()


async def reservation_movements(
    connection: AsyncConnection,
    reservation_id: UUID,
    *,
    limit: int,
    after: tuple[int, str, str] | None = None,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return at most `limit` movements of a reservation, step by step."""
    order = (Movement.reservation_version, Movement.sku, Movement.location)
    statement = (
        _movements().where(Movement.reservation_id == reservation_id).order_by(*order).limit(limit)
    )
    return (
        await connection.execute(
            _filtered(statement, [(after, lambda value: tuple_(*order) > value)])
        )
    ).all()


def _movements() -> Select[*tuple[Any, ...]]:
    """Movements, those of adjustments with their reason."""
    return select(
        Movement.sku,
        Movement.location,
        Movement.version,
        Movement.kind,
        Movement.available_delta,
        Movement.held_delta,
        Movement.reservation_id,
        Movement.reservation_version,
        Adjustment.reason,
        Movement.created_at,
    ).outerjoin(
        Adjustment,
        (Adjustment.sku == Movement.sku)
        & (Adjustment.location == Movement.location)
        & (Adjustment.version == Movement.version),
    )


def _filtered(statement: Select[*Columns], conditions: Conditions) -> Select[*Columns]:
    """Add the condition of each filter that was given."""
    return statement.where(
        *(condition(value) for value, condition in conditions if value is not None)
    )


async def has_stock_but_no_demo(connection: AsyncConnection) -> bool:
    """True when there is stock that the demo's import did not bring: a real database."""
    if await connection.scalar(select(STOCK.sku).limit(1)) is None:
        return False
    demo = select(models.ImportJob.job).where(
        models.ImportJob.source == "admin", models.ImportJob.job == "demo"
    )
    return await connection.scalar(demo) is None
