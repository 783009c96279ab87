"""Single records, found by their key, and questions about whether a record exists."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.load import load
from db.models import ImportJobTable, RefundTable, ReservationTable, StockTable
from db.rows import Reservation, Wanted


async def find_reservation(
    connection: AsyncConnection, id_: UUID, source: str | None = None
) -> Reservation | None:
    """Return a reservation as it is stored; with `source` only if it belongs to that source."""
    wanted = Wanted()
    if source is None:
        wanted.reservations.add(id_)
    else:
        wanted.own_reservations.add((id_, source))
    return (await load(connection, wanted)).reservations.get(id_)


async def own_reservations(
    connection: AsyncConnection, ids: Collection[UUID], source: str
) -> set[UUID]:
    """Return those of the ids whose reservations belong to a source."""
    statement = select(ReservationTable.id).where(
        ReservationTable.id.in_(ids), ReservationTable.source == source
    )
    return set(await connection.scalars(statement))


async def is_identity_used(connection: AsyncConnection, source: str, seq: str) -> bool:
    """True when a reservation or a refund has that identity."""
    reserved = exists().where(ReservationTable.source == source, ReservationTable.seq == seq)
    refunded = exists().where(RefundTable.source == source, RefundTable.seq == seq)
    return bool(await connection.scalar(select(reserved | refunded)))


async def has_history(connection: AsyncConnection, sku: str, location: str) -> bool:
    """True when that stock row exists or has existed: a deleted row keeps its movements."""
    statement = select(StockTable.version).where(
        StockTable.sku == sku, StockTable.location == location
    )
    return await connection.scalar(statement) is not None


async def has_other_stock_than_demo(connection: AsyncConnection) -> bool:
    """True when there is stock and the demo was never imported, so the stock is real."""
    if await connection.scalar(select(StockTable.sku).limit(1)) is None:
        return False
    demo = select(ImportJobTable.job).where(
        ImportJobTable.source == "admin", ImportJobTable.job == "demo"
    )
    return await connection.scalar(demo) is None
