"""Authentication: a key becomes a `Credential`, without a slow hash and usually without SQL.

A key is 256 random bits, so its SHA-256 can be stored and looked up: such a key can't be guessed,
so a slow hash would protect nothing. A worker trusts a look-up for half a second, and a revoked key
may work for that long. It looks up an unknown key at once. A key in use is looked up again ahead
of time in the background, because waiting would be slow under load.
"""

import asyncio
import functools
import hashlib
import math
import secrets
import time
from dataclasses import dataclass
from uuid import UUID, uuid4

from db.queries import credentials
from db.session.database import Database, StoreUnavailable, Transaction
from db.vocabulary import Scope
from service.domain.commands import Caller
from service.domain.errors import Forbidden, Unauthenticated, Unavailable
from service.http.limits.rate_limit import RateLimit

BELIEVED_SECONDS = 0.5
RENEWED_SECONDS = 0.2  # an older look-up is repeated in the background
LOOKUP_SECONDS_MAX = 2.0  # a frozen database must not use up the time that the request has
KNOWN_MAX = 10_000  # credentials remembered; unknown keys are not
PREFIX = "hf_"  # lets secret scanners recognise a key


@dataclass(slots=True)
class Credential:
    """A valid key: its source and its scopes."""

    id: UUID
    caller: Caller
    scopes: frozenset[str]
    looked_up_at: float

    def allows(self, scope: str) -> bool:
        """True when the credential has that scope, or all of them."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Credentials:
    """The credentials that a worker has looked up."""

    def __init__(self, database: Database, rate_limit: RateLimit) -> None:
        self.database = database
        self.rate_limit = rate_limit
        self._known: dict[bytes, Credential] = {}
        self._lookups: dict[bytes, asyncio.Task[Credential | None]] = {}

    async def require(self, authorization: bytes | None, scope: str) -> Caller:
        """Return the caller. Raises `Unauthenticated`, `Forbidden`, `RateLimited`."""
        if authorization is None or authorization[:7].lower() != b"bearer ":
            raise Unauthenticated("Send a key as `Authorization: Bearer <key>`.")
        key = authorization[7:].strip()
        known = self._known.get(key)
        age = math.inf if known is None else time.monotonic() - known.looked_up_at
        if age > BELIEVED_SECONDS:
            known = await self._look_up_once(key)
        elif age > RENEWED_SECONDS:
            self._start_lookup(key)
        if known is None:
            raise Unauthenticated("This key does not exist or was revoked.")
        if not known.allows(scope):
            raise Forbidden(f"This needs a key with the scope {scope}.")
        self.rate_limit.count(known.id)
        return known.caller

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

    async def _look_up(self, key: bytes) -> Credential | None:
        asked_at = time.monotonic()
        async with asyncio.timeout(LOOKUP_SECONDS_MAX):
            row = await self.database.read(
                lambda connection: credentials.find(connection, digest(key)), is_urgent=True
            )
        self._known.pop(key, None)
        if row is None:
            return None
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        credential = Credential(
            id=row.id,
            caller=Caller(row.source, every_source=Scope.ADMIN in row.scopes),
            scopes=frozenset(row.scopes),
            looked_up_at=asked_at,
        )
        self._known[key] = credential
        return credential


def digest(key: bytes) -> bytes:
    """Return the digest of a key, which is stored in its place."""
    return hashlib.sha256(key).digest()


def new_key() -> str:
    """Return a new random key."""
    return PREFIX + secrets.token_urlsafe(32)


async def store_key(
    database: Database, key: str, source: str, scopes: list[str], *, is_first: bool = False
) -> UUID:
    """Store a key's digest with its source and scopes; return the credential's id.

    `is_first` marks the admin key that a service was started with.
    """
    id_ = uuid4()

    async def work(transaction: Transaction) -> None:
        await credentials.create(
            transaction.connection, id_, digest(key.encode()), source, scopes, is_first=is_first
        )

    await database.transact(work)
    return id_


async def ensure_admin_key(database: Database, key: str) -> None:
    """Make sure that this key exists, with the scope admin; a revoked one stays revoked."""
    found = await database.read(
        lambda connection: credentials.is_known(connection, digest(key.encode()))
    )
    if not found:
        await store_key(database, key, "admin", ["admin"], is_first=True)


async def end_other_first_keys(database: Database, key: str, before: str | None) -> bool:
    """Revoke all first admin keys but `key`, and the key `before`.

    Returns whether any key was revoked.
    """
    others = [] if before is None else [digest(before.encode())]

    async def work(transaction: Transaction) -> bool:
        return await credentials.revoke_first(transaction.connection, digest(key.encode()), others)

    return await database.transact(work)
