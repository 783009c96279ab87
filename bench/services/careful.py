"""The code of a careful team: asyncpg without an ORM, a unique key, guarded updates, a ledger.

Each request is one transaction with a statement for each step. A repeated request gets the first
reservation. It writes to Holdfast's own tables, so that both pay for the same rows.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, HTTPException

from bench.services.textbook import ReserveRequest

RESERVE = """
    INSERT INTO reservation (id, source, seq, state, version, metadata, created_at, updated_at)
    VALUES ($1, 'careful', $2, 'confirmed', 1, '{}', now(), now())
    ON CONFLICT DO NOTHING RETURNING created_at
"""
TAKE = """
    UPDATE stock SET available = available - $3, version = version + 1, updated_at = now()
    WHERE sku = $1 AND location = $2 AND available >= $3 RETURNING version
"""
LINE = "INSERT INTO reservation_line VALUES ($1, $2, $3, $4, $4, 0)"
MOVE = """
    INSERT INTO movement (sku, location, version, kind, available_delta, held_delta,
                          reservation_id, reservation_version, created_at)
    VALUES ($1, $2, $3, 'reserve', -$4::bigint, 0, $5, 1, now())
"""
STORED = "SELECT id, created_at FROM reservation WHERE source = 'careful' AND seq = $1"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a pool of connections."""
    url = os.environ["BENCH_DATABASE_URL"].replace("postgresql+asyncpg:", "postgresql:")
    app.state.pool = await asyncpg.create_pool(url, min_size=20, max_size=20)
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/v1/reservations", status_code=201)
async def reserve(body: ReserveRequest) -> dict[str, Any]:
    """Reserve the units exactly once."""
    async with app.state.pool.acquire() as connection, connection.transaction():
        id_ = uuid.uuid4()
        created_at = await connection.fetchval(RESERVE, id_, body.seq)
        if created_at is None:
            id_, created_at = await connection.fetchrow(STORED, body.seq)
        else:
            for line in sorted(body.lines, key=lambda line: (line.sku, line.location)):
                key = line.sku, line.location
                version = await connection.fetchval(TAKE, *key, line.quantity)
                if version is None:
                    raise HTTPException(409, "insufficient stock")
                await connection.execute(LINE, id_, *key, line.quantity)
                await connection.execute(MOVE, *key, version, line.quantity, id_)
    lines = [line.model_dump() for line in body.lines]
    return {"id": id_, "seq": body.seq, "lines": lines, "created_at": created_at}
