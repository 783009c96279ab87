"""Look-ups of keys: without a slow hash, and usually without SQL.

A worker trusts a look-up for half a second, and a revoked key may work for that long. A key that
expires is refused from that moment on. A worker looks up an unknown key at once. A key in use is
looked up again ahead of time in the background, because waiting would be slow under load.
"""

import asyncio
import functools
import math
import time
from typing import Any

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
KNOWN_MAX = 10_000  # credentials remembered; unknown keys are not


class KeyLookups:
    """The keys that a worker has looked up."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.last_uses = LastUses(database)
        self._unknown = MergedLookups(database, credentials.find_each)
        self._known: dict[bytes, Credential] = {}
        self._lookups: dict[bytes, asyncio.Task[Credential | None]] = {}

    async def find(self, key: bytes) -> Credential | None:
        """Return the credential of a valid key; None for any other. Raises `Unavailable`."""
        known = self._known.get(key)
        is_usable = known is not None and not known.is_expired
        age = time.monotonic() - known.looked_up_at if known and is_usable else math.inf
        if age > BELIEVED_SECONDS:
            known = await self._look_up_once(key)
            if known is not None and known.is_expired:  # while its look-up took long
                known = None
        elif age > RENEWED_SECONDS:
            self._start_lookup(key)
        return known

    def _start_lookup(self, key: bytes) -> asyncio.Task[Credential | None]:
        """Look a key up; requests with the same key share the look-up."""
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key))
            lookup.add_done_callback(functools.partial(self._finish_lookup, key))
        return lookup

    def _finish_lookup(self, key: bytes, lookup: asyncio.Task[Credential | None]) -> None:
        del self._lookups[key]
        if not lookup.cancelled():
            lookup.exception()  # the waiting callers get the error; without any, it is ignored

    async def _look_up_once(self, key: bytes) -> Credential | None:
        try:
            return await asyncio.shield(self._start_lookup(key))
        except (StoreUnavailable, TimeoutError) as error:
            raise Unavailable("The key could not be looked up in time.") from error

    async def _read(self, key: bytes) -> Any:
        """Read a key's row. Unknown keys share a connection, so that a flood takes no more."""
        if key not in self._known:
            return await self._unknown.find(digest(key))
        return await self.database.read(
            lambda connection: credentials.find(connection, digest(key)), is_urgent=True
        )

    async def _look_up(self, key: bytes) -> Credential | None:
        asked_at = time.monotonic()
        async with asyncio.timeout(LOOKUP_SECONDS_MAX):
            row = await self._read(key)
        self._known.pop(key, None)
        if row is None:
            return None
        await self.last_uses.note(row)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        credential = Credential(
            id=row.id,
            caller=Caller(row.source, every_source=Scope.ADMIN in row.scopes),
            scopes=frozenset(row.scopes),
            looked_up_at=asked_at,
            ends_at=None if row.seconds_left is None else asked_at + row.seconds_left,
            requests_per_second=row.requests_per_second,
        )
        self._known[key] = credential
        return credential
