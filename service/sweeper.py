"""The sweeper: gives the units of overdue holds back, in every process, within two seconds.

It only asks which holds are overdue; whether one still is, the ledger decides. Two sweepers that
find the same hold release it once. A sweeper that is dead sells nothing out: a request that would
be refused takes overdue holds back itself.
"""

import asyncio

import structlog

from db import lists
from db.database import Database, DatabaseError
from service import metrics
from service.coalescer import Coalescer
from service.commands import Command, Done, Expire
from service.errors import ServiceError

log = structlog.get_logger()

INTERVAL_SECONDS = 0.5  # a quarter of what the contract allows, so that one failure is no delay
HOLDS_MAX = 500  # per round; a full round is followed by the next at once


async def sweep_forever(database: Database, coalescer: Coalescer) -> None:
    """Release overdue holds until cancelled; a failure is logged and tried again."""
    while True:
        try:
            released_all = await sweep(database, coalescer) < HOLDS_MAX
        except (DatabaseError, ServiceError) as error:
            log.warning("sweep_failed", error=str(error))
            released_all = True
        if released_all:
            await asyncio.sleep(INTERVAL_SECONDS)


async def sweep(database: Database, coalescer: Coalescer) -> int:
    """Release overdue holds, the oldest first, and return how many were found."""
    overdue = await database.read(
        lambda connection: lists.overdue_holds(connection, HOLDS_MAX), is_urgent=True
    )
    if overdue:
        expired: list[Command] = [Expire(id_) for id_ in overdue]
        outcomes = await coalescer.submit(expired, may_be_shed=False)  # promised within 2 s
        released = sum(isinstance(outcome, Done) and outcome.status == 200 for outcome in outcomes)
        metrics.EXPIRED.inc(released)
    return len(overdue)
