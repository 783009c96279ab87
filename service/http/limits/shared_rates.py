"""Rate limits that are exact over all workers and services: their buckets are in Redis.

The takes of concurrent requests are merged. While a call is under way, the next requests wait and
share the following call (docs/decisions.md). There is no timer, and a worker needs one
connection. If Redis does not answer, the worker goes on with its own buckets.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from service.engine.outages import Outage
from service.http.limits.bucket import DEBT_SECONDS_MAX

if TYPE_CHECKING:
    from db.shared_buckets import SharedBuckets, Taking

ANSWER_SECONDS_MAX = 0.25
"""The wait of a request for Redis; its call may begin only when the call before it has ended."""
RETRY_SECONDS = 1.0
"""The time between two tries, in the background, to reach a Redis that did not answer."""


class _Round:
    """The takes of one call."""

    __slots__ = ("has_failed", "is_done", "takings")

    def __init__(self) -> None:
        self.takings: dict[str, Taking] = {}
        self.is_done = asyncio.Event()
        self.has_failed = False


class SharedRates:
    """The buckets of all sources, as this worker asks for them."""

    def __init__(self, url: str) -> None:
        from db import shared_buckets  # noqa: PLC0415 - its client is an extra

        self._module = shared_buckets
        self._buckets: SharedBuckets = shared_buckets.SharedBuckets(url, ANSWER_SECONDS_MAX)
        self._outage = Outage("redis")
        self._is_lost = False
        self._retry_at = 0.0
        self._next = _Round()
        self._calls: asyncio.Task[None] | None = None

    async def take(
        self, source: str, per_second: int, wanted: int, *, owes: bool
    ) -> tuple[bool, float] | None:
        """Take from a source's bucket: whether it was granted, and the tokens that are left.

        Returns None when Redis does not answer.
        """
        if self._is_lost:
            self._retry()
            return None
        joined = self._next
        taking = joined.takings.get(source)
        if taking is None:
            taking = self._module.Taking(per_second, DEBT_SECONDS_MAX * per_second)
            joined.takings[source] = taking
        place = taking.wanted
        if owes:
            taking.owed += wanted
        else:
            taking.wanted += wanted
        if self._calls is None:
            self._calls = asyncio.create_task(self._call())
        await joined.is_done.wait()
        if joined.has_failed:
            return None
        return owes or place + wanted <= taking.granted, taking.tokens

    async def close(self) -> None:
        """End the calls and close the connection."""
        if self._calls is not None:
            self._calls.cancel()
        await self._buckets.close()

    async def _call(self) -> None:
        """Make one call after another until no request waits."""
        try:
            while self._next.takings:
                asked, self._next = self._next, _Round()
                try:
                    await self._ask(asked)
                finally:
                    asked.is_done.set()
        finally:  # there are takings only if the worker ends
            self._calls, left, self._next = None, self._next, _Round()
            left.has_failed = True
            left.is_done.set()

    async def _ask(self, asked: _Round) -> None:
        asked.has_failed = True
        if self._is_lost:  # since the call before: do not wait for it twice
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await self._buckets.take(asked.takings)
            asked.has_failed = False
        except Exception as error:  # noqa: BLE001 - no request may fail or wait for Redis' sake
            self._is_lost, self._retry_at = True, time.monotonic() + RETRY_SECONDS
            self._outage.begin(repr(error))

    def _retry(self) -> None:
        """Try to reach Redis in the background, if it is time."""
        if self._calls is None and time.monotonic() >= self._retry_at:
            self._calls = asyncio.create_task(self._reach())

    async def _reach(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await self._buckets.ping()
            self._is_lost = False
            self._outage.end()
        except Exception:  # noqa: BLE001 - as above
            self._retry_at = time.monotonic() + RETRY_SECONDS
        finally:
            self._calls = None
