"""The sweeper: gives the units of overdue holds back, in every process, within two seconds.

It only asks which holds are overdue; whether one still is, the ledger decides. Two sweepers that
find the same hold release it once. A sweeper that is dead sells nothing out: a request that would
be refused takes overdue holds back itself.
"""

import asyncio

from db.queries import lists
from db.session.database import Database, DatabaseError
from service import metrics
from service.domain.commands import Done, Expire
from service.domain.errors import ServiceError, Unavailable
from service.engine.coalescer import Coalescer
from service.engine.episodes import Episode

INTERVAL_SECONDS = 0.5  # a quarter of what the contract allows, so that one failure is no delay
HOLDS_MAX = 500  # per round; a full round is followed by the next at once


async def sweep_forever(database: Database, coalescer: Coalescer) -> None:
    """Release overdue holds until cancelled; after a failure try again."""
    database_outage, trouble = Episode("database"), Episode("sweeper")
    while True:
        released_all = True
        try:
            released_all = await sweep(database, coalescer) < HOLDS_MAX
        except (DatabaseError, Unavailable) as error:
            database_outage.begin(error)
        except ServiceError as error:
            trouble.begin(error)
        else:
            database_outage.end()
            trouble.end()
        if released_all:
            await asyncio.sleep(INTERVAL_SECONDS)


async def sweep(database: Database, coalescer: Coalescer) -> int:
    """Release overdue holds, the oldest first, and return how many were found."""
    overdue = await database.read(
        lambda connection: lists.overdue_holds(connection, HOLDS_MAX), is_urgent=True
    )
    if overdue:
        expired = [Expire(id_) for id_ in overdue]
        outcomes = await coalescer.submit(expired, may_be_shed=False)  # promised within 2 s
        released = sum(
            isinstance(outcome, Done) and outcome.effect == "changed" for outcome in outcomes
        )
        metrics.EXPIRED.inc(released)
    return len(overdue)
