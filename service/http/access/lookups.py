"""Look-ups of keys: without a slow hash, and usually without SQL.

A worker trusts a look-up for half a second, and a revoked key may work for that long. A key that
expires is refused from that moment on. A worker looks up an unknown key at once. A key in use is
looked up again ahead of time in the background, because waiting would be slow under load. The same
holds for the limits of sources (`source_rates`).
"""

import asyncio
import functools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from db.queries import credentials
from db.session.database import Database, StoreUnavailable
from db.vocabulary import Scope
from service.domain.commands import Caller
from service.domain.errors import Unavailable
from service.http.access.credential import Credential
from service.http.access.keys import digest
from service.http.access.last_uses import LastUses
from service.http.access.merged_lookups import MergedLookups

BELIEVED_SECONDS = 0.5
RENEWED_SECONDS = 0.2  # an older look-up is repeated in the background
LOOKUP_SECONDS_MAX = 2.0  # a frozen database must not use up the time that the request has
KNOWN_MAX = 10_000  # look-ups remembered; those that found nothing are not


class LookedUp(Protocol):
    """A thing that was looked up."""

    @property
    def looked_up_at(self) -> float:
        """The moment of the look-up, in monotonic seconds."""

    @property
    def is_expired(self) -> bool:
        """True when the time for which it is valid has passed."""


N = TypeVar("N", bound=Hashable)
F = TypeVar("F", bound=LookedUp)


class Lookups(ABC, Generic[N, F]):
    """The things of one kind that a worker has looked up, each by its name."""

    failure: ClassVar[str]
    """The sentence about a look-up that the database did not answer in time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[N, F] = {}
        self._lookups: dict[N, asyncio.Task[F | None]] = {}

    @abstractmethod
    async def _read(self, name: N) -> F | None:
        """Read a thing from the database within `LOOKUP_SECONDS_MAX`; None if there is none."""

    async def find(self, name: N) -> F | None:
        """Return a valid thing; None if there is none. Raises `Unavailable`."""
        known = self._known.get(name)
        is_usable = known is not None and not known.is_expired
        age = time.monotonic() - known.looked_up_at if known and is_usable else math.inf
        if age > BELIEVED_SECONDS:
            known = await self._look_up_once(name)
            if known is not None and known.is_expired:  # while its look-up took long
                known = None
        elif age > RENEWED_SECONDS:
            self._start_lookup(name)
        return known

    def _start_lookup(self, name: N) -> asyncio.Task[F | None]:
        """Look a thing up; requests that need the same thing share the look-up."""
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = self._lookups[name] = asyncio.create_task(self._look_up(name))
            lookup.add_done_callback(functools.partial(self._finish_lookup, name))
        return lookup

    def _finish_lookup(self, name: N, lookup: asyncio.Task[F | None]) -> None:
        del self._lookups[name]
        if not lookup.cancelled():
            lookup.exception()  # the waiting callers get the error; without any, it is ignored

    async def _look_up_once(self, name: N) -> F | None:
        try:
            return await asyncio.shield(self._start_lookup(name))
        except (StoreUnavailable, TimeoutError) as error:
            raise Unavailable(self.failure) from error

    async def _look_up(self, name: N) -> F | None:
        found = await self._read(name)
        self._known.pop(name, None)
        if found is not None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[name] = found
        return found


class KeyLookups(Lookups[bytes, Credential]):
    """The keys that a worker has looked up."""

    failure = "The key could not be looked up in time."

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.last_uses = LastUses(database)
        self._unknown = MergedLookups(database, credentials.find_each)

    async def _row(self, key: bytes) -> Any:
        """Read a key's row. Unknown keys share a connection, so that a flood takes no more."""
        if key not in self._known:
            return await self._unknown.find(digest(key))
        return await self.database.read(
            lambda connection: credentials.find(connection, digest(key)), is_urgent=True
        )

    async def _read(self, name: bytes) -> Credential | None:
        asked_at = time.monotonic()
        async with asyncio.timeout(LOOKUP_SECONDS_MAX):
            row = await self._row(name)
        if row is None:
            return None
        await self.last_uses.note(row)
        return Credential(
            id=row.id,
            caller=Caller(row.source, every_source=Scope.ADMIN in row.scopes),
            scopes=frozenset(row.scopes),
            looked_up_at=asked_at,
            ends_at=None if row.seconds_left is None else asked_at + row.seconds_left,
            requests_per_second=row.requests_per_second,
        )
