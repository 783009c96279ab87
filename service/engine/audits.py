"""Audits over HTTP: one runs at a time, and all callers that ask meanwhile share the next one.

An audit reads every row, so several at once would leave no capacity for other requests.
"""

import asyncio

from db.queries.audit import Audit, audit
from db.session.database import Database

SECONDS_MAX = 60  # for one audit; `holdfast audit` may take longer


class SharedAudits:
    """Runs the audits of a worker; each one answers all callers that wait for it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._running: asyncio.Task[Audit] | None = None
        self._next: asyncio.Task[Audit] | None = None

    async def run(self) -> Audit:
        """Return the result of an audit that began after this call. Raises `DatabaseError`."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._audit())
            return await asyncio.shield(self._running)
        if self._next is None:
            self._next = asyncio.create_task(self._follow(self._running))
        return await asyncio.shield(self._next)

    async def _audit(self) -> Audit:
        return await audit(self.database, seconds_max=SECONDS_MAX)

    async def _follow(self, before: "asyncio.Task[Audit]") -> Audit:
        """Wait until the running audit ends, then run the next one."""
        await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await self._audit()
