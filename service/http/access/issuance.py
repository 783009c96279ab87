"""Creates, rotates and revokes keys, for HTTP and for the command line.

Each of these runs in one transaction and returns its outcome: a refusal is a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from db.queries import credentials
from db.session.database import AsyncConnection, Database, Transaction
from db.vocabulary import KeyState, Scope
from service.domain.commands import Done, Outcome
from service.domain.errors import (
    IdempotencyMismatch,
    IllegalKeyTransition,
    InvalidRequest,
    LastAdminKey,
    NotFound,
)
from service.http.access.keys import digest, new_key, prefix_of

EXPIRY_MAX = datetime(9999, 1, 1, tzinfo=UTC)
"""Every expiry is earlier: later moments can't be calculated with."""


class Identity(NamedTuple):
    """The identity of the request that makes a key: the source of its caller, and its seq."""

    issuer: str
    seq: str


@dataclass(frozen=True, slots=True)
class WantedKey:
    """The content of a request for a new key."""

    source: str
    scopes: tuple[str, ...]
    label: str | None = None
    expires_at: datetime | None = None

    def content(self) -> dict[str, Any]:
        """Return the members by which two requests are compared; the order of scopes is free."""
        expires_at = None if self.expires_at is None else written(self.expires_at)
        return {
            "source": self.source,
            "scopes": sorted(self.scopes),
            "label": self.label,
            "expires_at": expires_at,
        }


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was made just now: its row, and the key itself, which is stored nowhere."""

    row: Any
    key: str

    @property
    def id(self) -> UUID:
        """The id of the credential."""
        return UUID(str(self.row.id))


def written(moment: datetime) -> str:
    """Return a moment as answers show it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def state_of(row: Any, now: datetime) -> KeyState:
    """Return the state of a key at a moment of the database's clock."""
    if row.revoked_at is not None:
        return KeyState.REVOKED
    if row.expires_at is not None and row.expires_at <= now:
        return KeyState.EXPIRED
    return KeyState.VALID


async def create_key(
    database: Database, wanted: WantedKey, identity: Identity | None = None
) -> Outcome[Any]:
    """Make a key. The outcome is an `IssuedKey`, or the row of the key that was made before.

    With an identity the request can be repeated. Without one, as on the command line, each call
    makes a key.
    """
    key, content = new_key(), wanted.content()

    async def work(transaction: Transaction) -> Outcome[Any]:
        connection = transaction.connection
        if identity and (answer := await _find_answer(connection, identity, content)):
            return answer
        now = await credentials.read_clock(connection)
        lifetime = None if wanted.expires_at is None else wanted.expires_at - now
        if wanted.expires_at is not None and not now < wanted.expires_at < EXPIRY_MAX:
            return InvalidRequest.at("expires_at", "must be in the future, before the year 9999")
        new = _new_credential(
            key,
            now,
            wanted,
            lifetime,
            **_identified(identity, content),
        )
        return await _store(connection, new, key, identity, content)

    return await database.transact(work)


async def rotate_key(
    database: Database, id_: UUID, grace: timedelta, identity: Identity | None = None
) -> Outcome[Any]:
    """Make a key like a valid one, which itself ends after the grace or at its own expiry.

    The new key has the source, the scopes and the label of the old one. If the old one was made
    for a time, the new one gets the same time from now on. The outcome is that of `create_key`.
    """
    key = new_key()
    content = {"key_id": str(id_), "grace_seconds": int(grace.total_seconds())}

    async def work(transaction: Transaction) -> Outcome[Any]:
        connection = transaction.connection
        # The key comes first: if an equal request has ended it meanwhile, the answer is found next.
        old = await credentials.find_by_id(connection, id_)
        if identity and (answer := await _find_answer(connection, identity, content)):
            return answer
        if old is None:
            return no_such_key()
        now = await credentials.read_clock(connection)
        state = state_of(old, now)
        if state != KeyState.VALID:
            return IllegalKeyTransition(
                f"The key is {state}, so it can't be rotated: create another one.",
                state=state,
                allowed=[],
            )
        like_old = WantedKey(old.source, tuple(old.scopes), old.label, _end_of(old.lifetime, now))
        new = _new_credential(key, now, like_old, old.lifetime, **_identified(identity, content))
        outcome = await _store(connection, new, key, identity, content)
        if isinstance(outcome, Done) and outcome.effect == "created":
            await credentials.end_at(connection, id_, now + grace)
        return outcome

    return await database.transact(work)


async def revoke_key(database: Database, id_: UUID) -> Outcome[None]:
    """Revoke a key, now or before. The last admin key that never expires is refused."""

    async def work(transaction: Transaction) -> Outcome[None]:
        connection = transaction.connection
        await credentials.lock_revocations(connection)
        row = await credentials.find_by_id(connection, id_)
        if row is None:
            return no_such_key()
        is_lasting_admin = (
            Scope.ADMIN in row.scopes and row.revoked_at is None and row.expires_at is None
        )
        if is_lasting_admin and not await credentials.has_other_lasting_admin(connection, id_):
            return LastAdminKey(
                "This is the last valid admin key that does not expire. Create another one first."
            )
        await credentials.revoke(connection, id_)
        return Done("changed", None)

    return await database.transact(work)


def no_such_key() -> NotFound:
    """Return the error about an id that no key has."""
    return NotFound("There is no such key.")


def _new_credential(
    key: str, now: datetime, wanted: WantedKey, lifetime: timedelta | None, **identified: Any
) -> credentials.NewCredential:
    """The row of a new key."""
    return credentials.NewCredential(
        id=uuid4(),
        digest=digest(key.encode()),
        prefix=prefix_of(key),
        source=wanted.source,
        scopes=list(wanted.scopes),
        label=wanted.label,
        created_at=now,
        expires_at=wanted.expires_at,
        lifetime=lifetime,
        **identified,
    )


async def _store(
    connection: AsyncConnection,
    new: credentials.NewCredential,
    key: str,
    identity: Identity | None,
    content: Mapping[str, Any],
) -> Outcome[Any]:
    """Store a new key; if an equal request was faster, return its answer."""
    row = await credentials.create(connection, new)
    if row is not None:
        return Done("created", IssuedKey(row, key))
    answer = await _find_answer(connection, identity, content) if identity else None
    if answer is None:
        raise AssertionError("a new key was refused, but no other one has its identity")
    return answer


async def _find_answer(
    connection: AsyncConnection, identity: Identity, content: Mapping[str, Any]
) -> Outcome[Any] | None:
    """Return the answer to a request that made a key before; None if it is new."""
    row = await credentials.find_by_identity(connection, *identity)
    if row is None:
        return None
    for field, sent in content.items():
        stored = row.content.get(field)
        if stored != sent:
            return IdempotencyMismatch.of(field, stored, sent)
    return Done("unchanged", row)


def _identified(identity: Identity | None, content: Mapping[str, Any]) -> dict[str, Any]:
    if identity is None:
        return {}
    return {"issuer": identity.issuer, "seq": identity.seq, "content": dict(content)}


def _end_of(lifetime: timedelta | None, now: datetime) -> datetime | None:
    """Return the moment at which a time from now ends, before `EXPIRY_MAX`."""
    if lifetime is None:
        return None
    return min(lifetime, EXPIRY_MAX - now) + now
