"""Audits over HTTP: one at a time, and all who ask meanwhile share the next one.

An audit reads every row, so that several at once would take the database from everybody else.
"""

import asyncio

from db.queries.audit import Audit, audit
from db.session.database import Database

SECONDS_MAX = 60  # for one audit; `holdfast audit` may take longer


class Audits:
    """The audits of a worker."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._running: asyncio.Task[Audit] | None = None
        self._next: asyncio.Task[Audit] | None = None

    async def run(self) -> Audit:
        """Return what an audit found that began after this was called. Raises `DatabaseError`."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._audit())
            return await asyncio.shield(self._running)
        if self._next is None:
            self._next = asyncio.create_task(self._follow(self._running))
        return await asyncio.shield(self._next)

    async def _audit(self) -> Audit:
        return await audit(self.database, seconds_max=SECONDS_MAX)

    async def _follow(self, before: "asyncio.Task[Audit]") -> Audit:
        """Wait for the audit under way, then be the one under way."""
        await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await self._audit()
