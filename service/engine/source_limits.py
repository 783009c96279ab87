"""The limits of sources: a change is in force for every transaction when it has been answered.

`db.queries.source_limits` explains why the count of open holds is exact. If the process ends before
it has counted, the limits are stored, but the quotas are not in force yet. The background service
then counts, as does the same change sent again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from db.queries import source_limits
from db.queries.source_limits import LimitsAndUse
from db.session.database import Conflict, Database, DatabaseError, StoreUnavailable, Transaction
from db.vocabulary import Tracking
from service.engine.outages import Outage

T = TypeVar("T")

SECONDS_MAX = 65.0  # for a change: the largest transaction of a service may take 60 s
COUNT_SECONDS_MAX = 30.0  # for the count alone, which blocks the holds of the source
READ_SECONDS_MAX = 30.0  # for the count of a source whose use is not tracked
POLL_SECONDS = 0.02  # between two looks at the transactions; most end within a few milliseconds
RETRY_SECONDS = 0.1  # after another transaction had the row locked for too long
INTERVAL_SECONDS = 10.0  # between two looks for changes that were interrupted

IN_FORCE_LATER = (
    "The limits are stored, unless their row is locked, but they may not be in force yet: a"
    " transaction that began before them has not ended. Send the same request again."
)


class SourceLimits:
    """Changes and reads limits; also the background service that finishes interrupted changes."""

    name = "source_limits"

    def __init__(self, database: Database, seconds_max: float = SECONDS_MAX) -> None:
        self.database = database
        self.seconds_max = seconds_max

    async def put(self, source: str, changes: Mapping[str, int | None]) -> LimitsAndUse:
        """Change the named limits of a source; return all of them when the change is in force.

        Raises `StoreUnavailable` if that takes too long, or if the database is unreachable.
        """
        try:
            async with asyncio.timeout(self.seconds_max):
                stored = await self._retried(
                    lambda transaction: source_limits.replace(
                        transaction.connection, source, changes
                    )
                )
                await self._finish(source, stored)
        except TimeoutError as error:
            raise StoreUnavailable(IN_FORCE_LATER) from error
        return await self.get(source)

    async def get(self, source: str) -> LimitsAndUse:
        """Return the limits of a source and their use by its open holds."""
        return await self.database.read(
            lambda connection: source_limits.find(connection, source),
            timeout_seconds=READ_SECONDS_MAX,
        )

    async def run(self) -> None:
        """Finish interrupted changes until cancelled."""
        outage = Outage("source_limits")
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.finish_all()
            except (DatabaseError, TimeoutError) as error:
                outage.begin(error)
            else:
                outage.end()

    async def finish_all(self) -> None:
        """Count the open holds of each source for which that was interrupted."""
        for source in await self.database.read(source_limits.uncounted):
            async with asyncio.timeout(self.seconds_max):
                await self._finish(source, await self.get(source))

    async def _finish(self, source: str, limits: LimitsAndUse) -> None:
        """Return when every transaction acts on the limits; count the open holds if necessary."""
        while limits.tracking == Tracking.COUNTING or limits.hold_seconds_max is not None:
            await self._wait_for_others()
            version = limits.version
            if limits.tracking != Tracking.COUNTING or await self._count(source, version):
                return
            limits = await self.get(source)  # another request has changed them meanwhile

    async def _count(self, source: str, version: int) -> bool:
        return await self._retried(
            lambda transaction: source_limits.count(transaction.connection, source, version),
            timeout_seconds=COUNT_SECONDS_MAX,
        )

    async def _wait_for_others(self) -> None:
        """Return when each transaction that may not have seen the limits has ended."""
        waiting = await self.database.read(source_limits.transactions_that_may_have_missed_it)
        while waiting:
            await asyncio.sleep(POLL_SECONDS)
            still_there = partial(source_limits.which_have_not_ended, transactions=waiting)
            waiting = await self.database.read(still_there)

    async def _retried(
        self, work: Callable[[Transaction], Awaitable[T]], timeout_seconds: float | None = None
    ) -> T:
        """Run the work in a transaction, again while others have the row locked for too long."""
        while True:
            try:
                return await self.database.transact(work, timeout_seconds=timeout_seconds)
            except Conflict:
                await asyncio.sleep(RETRY_SECONDS)
