"""The usual code of a team: FastAPI, the ORM, SELECT … FOR UPDATE, a transaction per request.

It does less than Holdfast: no ledger, no replays, no holds. Its tables have the same form as
Holdfast's, so that both pay for the same kind of rows.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The textbook's own tables."""


class Item(Base):
    """Stock of one SKU."""

    __tablename__ = "textbook_item"
    sku: Mapped[str] = mapped_column(primary_key=True)
    available: Mapped[int]


class Order(Base):
    """One reservation."""

    __tablename__ = "textbook_order"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    seq: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(
        default=lambda: datetime.now(UTC).replace(tzinfo=None)
    )


class OrderLine(Base):
    """One line of a reservation."""

    __tablename__ = "textbook_order_line"
    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int]


class Line(BaseModel):
    """The units of one SKU in a request."""

    sku: str
    location: str = "main"
    quantity: int = Field(ge=1)


class ReserveRequest(BaseModel):
    """The body of a request."""

    seq: str
    lines: list[Line]


engine = create_async_engine(os.environ["BENCH_DATABASE_URL"], pool_size=20, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def tables_and_stock(_app: FastAPI) -> AsyncIterator[None]:
    """Create the tables and the stock."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session, session.begin():
        for number in range(1, int(os.environ.get("BENCH_SKUS", "1")) + 1):
            await session.merge(Item(sku=f"S{number}", available=1_000_000_000))
    yield
    await engine.dispose()


def application(*, makes_tables: bool) -> FastAPI:
    """Return a service on these tables; only one service creates them."""
    return FastAPI(lifespan=tables_and_stock if makes_tables else None)


def answer(order: Order, body: ReserveRequest) -> dict[str, Any]:
    """Return the body of the answer."""
    return {
        "id": order.id,
        "seq": order.seq,
        "lines": [line.model_dump() for line in body.lines],
        "created_at": order.created_at,
    }


app = application(makes_tables=True)


@app.post("/v1/reservations", status_code=201)
async def reserve(body: ReserveRequest) -> dict[str, Any]:
    """Reserve the units under a row lock."""
    async with sessions() as session, session.begin():
        order = Order(seq=body.seq)
        session.add(order)
        await session.flush()
        for line in sorted(body.lines, key=lambda line: line.sku):
            item = (
                await session.execute(select(Item).where(Item.sku == line.sku).with_for_update())
            ).scalar_one_or_none()
            if item is None or item.available < line.quantity:
                raise HTTPException(409, "insufficient stock")
            item.available -= line.quantity
            session.add(OrderLine(order_id=order.id, sku=line.sku, quantity=line.quantity))
    return answer(order, body)
