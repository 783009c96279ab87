"""The time at which each key was last used, to the minute.

A key in use is looked up again all the time, so the look-ups notice every use and an ordinary
request pays nothing for it. The first use is stored at once, before its answer. Later ones are
stored in the background, at most once a minute for each key.
"""

import asyncio
import time
from typing import Protocol
from uuid import UUID

from db.queries import credentials
from db.session.database import Database, DatabaseError, Transaction
from service.engine.outages import Outage

FIRST_USE_SECONDS_MAX = 0.4  # to store it; a slow or read-only database must not refuse the request
GATHER_SECONDS = 0.5  # in which further uses are gathered, to be stored in the same statement
FAILED_MAX = 10_000  # keys; one more empties the table, so that its memory stays bounded
INTERVAL_SECONDS = credentials.USE_INTERVAL.total_seconds()


class UsedKey(Protocol):
    """A valid key as it was looked up."""

    @property
    def id(self) -> UUID:
        """The id of the credential."""

    @property
    def unused_seconds(self) -> float | None:
        """The seconds since the last use that is stored; None if none is."""


class LastUses:
    """The background service that stores which keys are in use."""

    name = "last_uses"

    def __init__(self, database: Database) -> None:
        self.database = database
        self._failed: dict[UUID, float] = {}
        """When a use of a key could not be stored, in monotonic seconds."""
        self._due: set[UUID] = set()
        self._is_due = asyncio.Event()
        self._outage = Outage("last_uses")

    async def note(self, key: UsedKey) -> None:
        """Note the use of a key. The first one is stored now, if the database can do so quickly."""
        if key.unused_seconds is not None and key.unused_seconds < INTERVAL_SECONDS:
            return
        failed_at = self._failed.get(key.id)
        if failed_at is not None and time.monotonic() - failed_at < INTERVAL_SECONDS:
            return
        if key.unused_seconds is None and await self._store_soon(key.id):
            return
        self._due.add(key.id)
        self._is_due.set()

    async def run(self) -> None:
        """Store the uses that are due, until cancelled."""
        while True:
            await self._is_due.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._is_due.clear()
            due, self._due = self._due, set()
            try:
                await self._store(due)
            except DatabaseError as error:
                self._outage.begin(error)
                self._let_rest(due)
            else:
                self._outage.end()

    async def _store_soon(self, id_: UUID) -> bool:
        try:
            async with asyncio.timeout(FIRST_USE_SECONDS_MAX):
                await self._store({id_})
        except (DatabaseError, TimeoutError) as error:
            self._outage.begin(error)
            return False
        return True

    async def _store(self, ids: set[UUID]) -> None:
        async def work(transaction: Transaction) -> None:
            await credentials.note_uses(transaction.connection, ids)

        await self.database.transact(work)

    def _let_rest(self, ids: set[UUID]) -> None:
        """Try these keys again in a minute, not at their next look-up: that may be at once."""
        if len(self._failed) + len(ids) > FAILED_MAX:
            self._failed.clear()
        self._failed |= dict.fromkeys(ids, time.monotonic())
