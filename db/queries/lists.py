"""Lists, filtered and in order of creation, one page from a cursor on; and overdue holds."""

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVarTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, exists, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.load import CLOCK, load
from db.models import (
    AdjustmentTable,
    MovementTable,
    RefundLineTable,
    RefundTable,
    ReservationLineTable,
    ReservationTable,
    StockTable,
)
from db.rows import Line, Refund, Reservation, Stock, Wanted

Columns = TypeVarTuple("Columns")
Conditions = Sequence[tuple[Any, Callable[[Any], ColumnElement[bool]]]]
"""Pairs of a filter's value and its condition; a filter whose value is None has no condition."""

STOCK_COLUMNS = (
    StockTable.sku,
    StockTable.location,
    StockTable.name,
    StockTable.available,
    StockTable.held,
    StockTable.low_stock_at,
    StockTable.version,
    StockTable.updated_at,
)

PAGE_LINES_MAX = 10_000
"""The limit of lines in a page. A batch has the same limit; reading so many takes tens of ms."""

OVERDUE_HOLDS = text(f"""
    SELECT id FROM reservation
    WHERE state = 'held' AND expires_at <= {CLOCK}
    ORDER BY expires_at, id
    LIMIT :holds_max
""")


async def overdue_holds(connection: AsyncConnection, holds_max: int) -> list[UUID]:
    """Return the ids of overdue holds, the oldest first."""
    return list(await connection.scalars(OVERDUE_HOLDS, {"holds_max": holds_max}))


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
    """Return up to `limit` reservations created after the one at `after`, and whether more follow.

    A page has fewer reservations if they have many lines: it ends before `PAGE_LINES_MAX` lines.
    """
    lines = select(func.count()).where(ReservationLineTable.reservation_id == ReservationTable.id)
    ids = (
        select(ReservationTable.id, lines.scalar_subquery())
        .order_by(ReservationTable.created_at, ReservationTable.id)
        .limit(limit + 1)
    )
    conditions: Conditions = [
        (source, lambda value: ReservationTable.source == value),
        (seq, lambda value: ReservationTable.seq == value),
        (state, lambda value: ReservationTable.state == value),
        (created_after, lambda value: ReservationTable.created_at > value),
        (created_before, lambda value: ReservationTable.created_at < value),
        (after, lambda value: tuple_(ReservationTable.created_at, ReservationTable.id) > value),
        (
            sku,
            lambda value: exists().where(
                ReservationLineTable.reservation_id == ReservationTable.id,
                ReservationLineTable.sku == value,
            ),
        ),
    ]
    counted = (await connection.execute(filtered(ids, conditions))).all()
    page = _fitting(counted[:limit])
    found = (await load(connection, Wanted(reservations=set(page)))).reservations
    return [found[id_] for id_ in page if id_ in found], len(page) < len(counted)


def _fitting(counted: Sequence[Row[UUID, int]]) -> list[UUID]:
    """The first ids whose lines together fit into a page, but at least one id."""
    lines = itertools.accumulate(count for _, count in counted)
    fitting = sum(total <= PAGE_LINES_MAX for total in lines)
    return [id_ for id_, _ in counted[: max(fitting, 1)]]


async def refunds(
    connection: AsyncConnection,
    reservation_id: UUID,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    id_: UUID | None = None,
) -> list[Refund]:
    """Return at most `limit` refunds of a reservation that followed the one at `after`."""
    statement = (
        select(RefundTable)
        .with_only_columns(
            RefundTable.id,
            RefundTable.reservation_id,
            RefundTable.source,
            RefundTable.seq,
            RefundTable.entire,
            RefundTable.reason,
            RefundTable.created_at,
        )
        .where(RefundTable.reservation_id == reservation_id)
        .order_by(RefundTable.created_at, RefundTable.id)
        .limit(limit)
    )
    conditions: Conditions = [
        (after, lambda value: tuple_(RefundTable.created_at, RefundTable.id) > value),
        (id_, lambda value: RefundTable.id == value),
    ]
    rows = (await connection.execute(filtered(statement, conditions))).all()
    lines: dict[UUID, list[Line]] = {row.id: [] for row in rows}
    given = await connection.execute(
        select(
            RefundLineTable.refund_id,
            RefundLineTable.sku,
            RefundLineTable.location,
            RefundLineTable.quantity,
        )
        .where(
            RefundLineTable.reservation_id == reservation_id, RefundLineTable.refund_id.in_(lines)
        )
        .order_by(RefundLineTable.sku, RefundLineTable.location)
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
    """Return at most `limit` stock rows, each with the time of its creation."""
    statement = (
        select(StockTable.created_at, *STOCK_COLUMNS)
        .where(StockTable.deleted_at.is_(None))
        .order_by(StockTable.created_at, StockTable.sku, StockTable.location)
        .limit(limit)
    )
    is_low = (StockTable.available <= StockTable.low_stock_at).is_(True)
    conditions: Conditions = [
        (
            after,
            lambda value: (
                tuple_(StockTable.created_at, StockTable.sku, StockTable.location) > value
            ),
        ),
        (sku, lambda value: StockTable.sku == value),
        (location, lambda value: StockTable.location == value),
        (sku_prefix, lambda value: StockTable.sku.startswith(value, autoescape=True)),
        (low, lambda value: is_low if value else ~is_low),
    ]
    rows = await connection.execute(filtered(statement, conditions))
    return [(row[0], Stock(*row[1:])) for row in rows]


async def stock_movements(
    connection: AsyncConnection,
    sku: str,
    location: str,
    *,
    limit: int,
    after: int | None = None,
    source: str | None = None,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return at most `limit` movements of a stock row, those after version `after`.

    With `source`, `reservation_id` is null unless the reservation belongs to that source. Each
    movement then costs a look-up by key, no matter to which source its reservation belongs.
    """
    statement = (
        _movements(source)
        .where(MovementTable.sku == sku, MovementTable.location == location)
        .order_by(MovementTable.version)
        .limit(limit)
    )
    conditions: Conditions = [(after, lambda value: MovementTable.version > value)]
    return (await connection.execute(filtered(statement, conditions))).all()


async def reservation_movements(
    connection: AsyncConnection,
    reservation_id: UUID,
    *,
    limit: int,
    after: tuple[int, str, str] | None = None,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return at most `limit` movements of a reservation, in the order of its steps."""
    order = (MovementTable.reservation_version, MovementTable.sku, MovementTable.location)
    statement = (
        _movements()
        .where(MovementTable.reservation_id == reservation_id)
        .order_by(*order)
        .limit(limit)
    )
    return (
        await connection.execute(
            filtered(statement, [(after, lambda value: tuple_(*order) > value)])
        )
    ).all()


def _movements(source: str | None = None) -> Select[*tuple[Any, ...]]:
    """Select movements; those of adjustments have their reason."""
    reservation_id: Any = MovementTable.reservation_id
    if source is not None:
        own = select(ReservationTable.id).where(
            ReservationTable.id == MovementTable.reservation_id, ReservationTable.source == source
        )
        reservation_id = own.scalar_subquery().label("reservation_id")
    return select(
        MovementTable.sku,
        MovementTable.location,
        MovementTable.version,
        MovementTable.kind,
        MovementTable.available_delta,
        MovementTable.held_delta,
        reservation_id,
        MovementTable.reservation_version,
        AdjustmentTable.reason,
        MovementTable.created_at,
    ).outerjoin(
        AdjustmentTable,
        (AdjustmentTable.sku == MovementTable.sku)
        & (AdjustmentTable.location == MovementTable.location)
        & (AdjustmentTable.version == MovementTable.version),
    )


def filtered(statement: Select[*Columns], conditions: Conditions) -> Select[*Columns]:
    """Add the condition of each filter that was given."""
    return statement.where(
        *(condition(value) for value, condition in conditions if value is not None)
    )
