"""For comparison: the reservation as a script in Redis, in memory and without durability."""

import os
from typing import Any

import redis.asyncio
from fastapi import FastAPI, HTTPException

from bench.services.textbook import ReserveRequest

SCRIPT = """
    if not redis.call('SET', KEYS[1], '1', 'NX') then return 1 end
    for index = 2, #KEYS do
        if tonumber(redis.call('GET', KEYS[index]) or 1000000000) < tonumber(ARGV[index - 1]) then
            redis.call('DEL', KEYS[1])
            return 0
        end
    end
    for index = 2, #KEYS do
        redis.call('SETNX', KEYS[index], 1000000000)
        redis.call('DECRBY', KEYS[index], ARGV[index - 1])
    end
    return 1
"""

client = redis.asyncio.Redis.from_url(os.environ["BENCH_REDIS_URL"])
take = client.register_script(SCRIPT)
app = FastAPI()


@app.post("/v1/reservations", status_code=201)
async def reserve(body: ReserveRequest) -> dict[str, Any]:
    """Reserve the units."""
    keys = [f"seq/{body.seq}", *(f"stock/{line.sku}" for line in body.lines)]
    if not await take(keys=keys, args=[line.quantity for line in body.lines]):
        raise HTTPException(409, "insufficient stock")
    return {"seq": body.seq, "lines": [line.model_dump() for line in body.lines]}
