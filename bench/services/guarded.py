"""The textbook service with a guarded update, which prevents lost updates without a lock."""

from typing import Any

from fastapi import HTTPException
from sqlalchemy import update

from bench.services.textbook import (
    Item,
    Order,
    OrderLine,
    ReserveRequest,
    answer,
    application,
    sessions,
)

app = application(makes_tables=False)


@app.post("/v1/reservations", status_code=201)
async def reserve(body: ReserveRequest) -> dict[str, Any]:
    """Reserve the units if they are available."""
    async with sessions() as session, session.begin():
        order = Order(seq=body.seq)
        session.add(order)
        await session.flush()
        for line in sorted(body.lines, key=lambda line: line.sku):
            taken = await session.execute(
                update(Item)
                .where(Item.sku == line.sku, Item.available >= line.quantity)
                .values(available=Item.available - line.quantity)
                .returning(Item.sku)
                .execution_options(synchronize_session=False)
            )
            if taken.scalar_one_or_none() is None:
                raise HTTPException(409, "insufficient stock")
            session.add(OrderLine(order_id=order.id, sku=line.sku, quantity=line.quantity))
    return answer(order, body)
