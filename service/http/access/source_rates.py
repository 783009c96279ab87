"""The own rate limit of a token's source, which for a key is looked up together with the key.

A worker trusts a look-up as long as that of a key, and repeats it in the same way.
"""

import asyncio
import functools
import math
import time
from typing import NamedTuple

from db.queries import credentials
from db.session.database import Database, StoreUnavailable
from service.domain.errors import Unavailable
from service.http.access import lookups

KNOWN_MAX = 10_000  # sources remembered


class KnownRate(NamedTuple):
    """A source's own limit, and when it was looked up (monotonic seconds)."""

    requests_per_second: int | None
    looked_up_at: float


class SourceRates:
    """The rate limits of the sources of tokens that a worker has looked up."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[str, KnownRate] = {}
        self._lookups: dict[str, asyncio.Task[KnownRate]] = {}

    async def find(self, source: str) -> int | None:
        """Return the source's own limit; None if it has none. Raises `Unavailable`."""
        known = self._known.get(source)
        age = math.inf if known is None else time.monotonic() - known.looked_up_at
        if known is None or age > lookups.BELIEVED_SECONDS:
            known = await self._look_up_once(source)
        elif age > lookups.RENEWED_SECONDS:
            self._start_lookup(source)
        return known.requests_per_second

    def _start_lookup(self, source: str) -> asyncio.Task[KnownRate]:
        """Look a source's limit up; its requests share the look-up."""
        lookup = self._lookups.get(source)
        if lookup is None:
            lookup = self._lookups[source] = asyncio.create_task(self._look_up(source))
            lookup.add_done_callback(functools.partial(self._finish_lookup, source))
        return lookup

    def _finish_lookup(self, source: str, lookup: asyncio.Task[KnownRate]) -> None:
        del self._lookups[source]
        if not lookup.cancelled():
            lookup.exception()  # the waiting callers get the error; without any, it is ignored

    async def _look_up_once(self, source: str) -> KnownRate:
        try:
            return await asyncio.shield(self._start_lookup(source))
        except (StoreUnavailable, TimeoutError) as error:
            raise Unavailable("The limits of the source could not be looked up in time.") from error

    async def _look_up(self, source: str) -> KnownRate:
        asked_at = time.monotonic()
        async with asyncio.timeout(lookups.LOOKUP_SECONDS_MAX):
            rate = await self.database.read(
                lambda connection: credentials.rate_of(connection, source), is_urgent=True
            )
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        known = self._known[source] = KnownRate(rate, asked_at)
        return known
