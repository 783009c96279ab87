"""The sweeper: gives back the units of overdue holds, in every process, within two seconds.

It only looks for holds that are overdue; the ledger decides whether each one still is. When two
sweepers find the same hold, it is released once. A dead sweeper never makes stock look sold out: a
request that would be refused takes back the overdue holds itself.
"""

import asyncio

from db.queries import lists
from db.session.database import Database, DatabaseError
from service import metrics
from service.domain.commands import Done, Expire
from service.domain.errors import ServiceError, Unavailable
from service.engine.coalescer import Coalescer
from service.engine.outages import Outage

INTERVAL_SECONDS = 0.5  # a quarter of the promised time, so that a failed round does not break it
HOLDS_MAX = 500  # in a round; after a full round the next one begins at once


class Sweeper:
    """The background service that releases overdue holds."""

    name = "sweeper"

    def __init__(self, database: Database, coalescer: Coalescer) -> None:
        self.database = database
        self.coalescer = coalescer

    async def run(self) -> None:
        """Release overdue holds until cancelled; after a failed round, try again."""
        database_outage, sweeper_outage = Outage("database"), Outage("sweeper")
        while True:
            released_all = True
            try:
                released_all = await sweep(self.database, self.coalescer) < HOLDS_MAX
            except (DatabaseError, Unavailable) as error:
                database_outage.begin(error)
            except ServiceError as error:
                sweeper_outage.begin(error)
            else:
                database_outage.end()
                sweeper_outage.end()
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
