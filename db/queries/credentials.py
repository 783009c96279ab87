"""Credentials in the database, found by the digest of the key, never by the key.

All times are those of the database's clock.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Float,
    LargeBinary,
    Row,
    Select,
    any_,
    cast,
    exists,
    extract,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import ApiKeyTable, SourceLimitTable
from db.vocabulary import Scope

LOCK = 0x6B657973  # "keys": the key of the advisory lock that each revocation takes

NOW: ColumnElement[datetime] = func.clock_timestamp()

IS_VALID = ApiKeyTable.revoked_at.is_(None) & (
    ApiKeyTable.expires_at.is_(None) | (ApiKeyTable.expires_at > NOW)
)
"""The condition that a key is accepted at this moment."""

USE_INTERVAL = timedelta(minutes=1)
"""The least time between two changes of `last_used_at`."""

UNUSED_SECONDS = cast(extract("epoch", NOW - ApiKeyTable.last_used_at), Float).label(
    "unused_seconds"
)
"""The seconds since the last use that is stored; null if none is."""

COLUMNS = (
    ApiKeyTable.id,
    ApiKeyTable.prefix,
    ApiKeyTable.source,
    ApiKeyTable.scopes,
    ApiKeyTable.label,
    ApiKeyTable.created_at,
    ApiKeyTable.expires_at,
    ApiKeyTable.lifetime,
    ApiKeyTable.last_used_at,
    ApiKeyTable.revoked_at,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """A credential that is to be stored; each field is a column of its row."""

    id: UUID
    digest: bytes
    prefix: str | None
    source: str
    scopes: list[str]
    created_at: datetime
    label: str | None = None
    expires_at: datetime | None = None
    lifetime: timedelta | None = None
    is_first: bool = False
    """True for the admin key that a service was started with."""
    issuer: str | None = None
    seq: str | None = None
    content: dict[str, Any] | None = None


async def read_clock(connection: AsyncConnection) -> datetime:
    """Return the present time of the database's clock."""
    return (await connection.execute(select(NOW))).scalar_one()


async def find(connection: AsyncConnection, digest: bytes) -> Row[*tuple[Any, ...]] | None:
    """Return the valid credential with that digest: id, source, scopes, and its source's rate.

    `seconds_left` are the seconds until it expires, or null. `unused_seconds` are those since its
    last use, or null if none is stored.
    """
    statement = _valid().where(ApiKeyTable.digest == digest)
    return (await connection.execute(statement)).one_or_none()


async def find_each(
    connection: AsyncConnection, digests: Sequence[bytes]
) -> dict[bytes, Row[*tuple[Any, ...]]]:
    """Return the valid credentials with these digests, by digest, each as `find` returns it."""
    statement = _valid().where(ApiKeyTable.digest == any_(cast(digests, ARRAY(LargeBinary))))
    return {row.digest: row for row in await connection.execute(statement)}


def _valid() -> Select[*tuple[Any, ...]]:
    seconds_left = cast(extract("epoch", ApiKeyTable.expires_at - NOW), Float)
    return (
        select(
            ApiKeyTable.id,
            ApiKeyTable.digest,
            ApiKeyTable.source,
            ApiKeyTable.scopes,
            seconds_left.label("seconds_left"),
            UNUSED_SECONDS,
            SourceLimitTable.requests_per_second,
        )
        .outerjoin(SourceLimitTable, SourceLimitTable.source == ApiKeyTable.source)
        .where(IS_VALID)
    )


async def rate_of(connection: AsyncConnection, source: str) -> int | None:
    """Return the requests a second that a source may send; None if it has no such limit."""
    statement = select(SourceLimitTable.requests_per_second).where(
        SourceLimitTable.source == source
    )
    return (await connection.execute(statement)).scalar_one_or_none()


async def create(connection: AsyncConnection, new: NewCredential) -> Row[*tuple[Any, ...]] | None:
    """Store a credential and return it; None if its identity or its digest is stored already.

    If another transaction is about to store the same identity, the call waits for its end.
    """
    statement = insert(ApiKeyTable).values(asdict(new)).on_conflict_do_nothing().returning(*COLUMNS)
    return (await connection.execute(statement)).one_or_none()


async def find_by_id(connection: AsyncConnection, id_: UUID) -> Row[*tuple[Any, ...]] | None:
    """Return a credential, valid or not."""
    statement = select(*COLUMNS).where(ApiKeyTable.id == id_)
    return (await connection.execute(statement)).one_or_none()


async def find_by_identity(
    connection: AsyncConnection, issuer: str, seq: str
) -> Row[*tuple[Any, ...]] | None:
    """Return the credential that a request made, with the `content` of the request."""
    statement = select(*COLUMNS, ApiKeyTable.content).where(
        ApiKeyTable.issuer == issuer, ApiKeyTable.seq == seq
    )
    return (await connection.execute(statement)).one_or_none()


async def list_page(
    connection: AsyncConnection,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    source: str | None = None,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return at most `limit` credentials in order of creation, valid or not."""
    order = (ApiKeyTable.created_at, ApiKeyTable.id)
    statement = select(*COLUMNS).order_by(*order).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*order) > after)
    if source is not None:
        statement = statement.where(ApiKeyTable.source == source)
    return (await connection.execute(statement)).all()


async def end_at(connection: AsyncConnection, id_: UUID, moment: datetime) -> None:
    """Make a credential expire at a moment, unless it expires earlier."""
    await connection.execute(
        update(ApiKeyTable)
        .where(ApiKeyTable.id == id_)
        .values(expires_at=func.least(ApiKeyTable.expires_at, moment))
    )


async def lock_revocations(connection: AsyncConnection) -> None:
    """Wait until no other transaction revokes keys, and let none do so until this one ends.

    The statements after this one see the rows of those transactions, because each statement
    has its own snapshot. A condition in the same statement would not see it.
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


async def has_other_lasting_admin(connection: AsyncConnection, id_: UUID) -> bool:
    """True when another valid credential than this one has the scope admin and never expires."""
    statement = select(ApiKeyTable.id).where(_is_lasting_admin(), ApiKeyTable.id != id_)
    return await connection.scalar(statement.limit(1)) is not None


async def revoke(connection: AsyncConnection, id_: UUID) -> None:
    """Revoke a credential, unless it was revoked before."""
    await connection.execute(
        update(ApiKeyTable)
        .where(ApiKeyTable.id == id_, ApiKeyTable.revoked_at.is_(None))
        .values(revoked_at=NOW)
    )


async def revoke_first(connection: AsyncConnection, kept: bytes, others: Sequence[bytes]) -> bool:
    """Revoke all first admin keys and `others`, except the key `kept`; True when there were any.

    Does nothing if `kept` is not a valid admin key that never expires: one must remain.
    """
    remains = exists().where(_is_lasting_admin(), ApiKeyTable.digest == kept)
    if not await connection.scalar(select(remains)):
        return False
    statement = (
        update(ApiKeyTable)
        .where(
            or_(ApiKeyTable.is_first, ApiKeyTable.digest.in_(others)),
            ApiKeyTable.digest != kept,
            ApiKeyTable.revoked_at.is_(None),
        )
        .values(revoked_at=NOW)
        .returning(ApiKeyTable.id)
    )
    return bool((await connection.execute(statement)).all())


async def is_known(connection: AsyncConnection, digest: bytes) -> bool:
    """True when a credential with that digest exists, valid or not."""
    statement = select(ApiKeyTable.id).where(ApiKeyTable.digest == digest)
    return await connection.scalar(statement) is not None


async def has_admin(connection: AsyncConnection) -> bool:
    """True when a valid credential has the scope admin."""
    statement = select(ApiKeyTable.id).where(ApiKeyTable.scopes.contains([Scope.ADMIN]), IS_VALID)
    return await connection.scalar(statement.limit(1)) is not None


def _is_lasting_admin() -> ColumnElement[bool]:
    return (
        ApiKeyTable.scopes.contains([Scope.ADMIN])
        & ApiKeyTable.revoked_at.is_(None)
        & ApiKeyTable.expires_at.is_(None)
    )


NOTE_USES = text("""
    UPDATE api_key SET last_used_at = clock_timestamp()
    WHERE id IN (
        SELECT id FROM api_key
        WHERE id = ANY (CAST(:ids AS uuid[]))
            AND (last_used_at IS NULL
                 OR last_used_at <= clock_timestamp() - CAST(:interval AS interval))
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")
"""Rows that another worker writes at this moment are skipped, so that two workers never wait for
each other."""


async def note_uses(connection: AsyncConnection, ids: Collection[UUID]) -> None:
    """Store that these credentials are in use now, at most once in `USE_INTERVAL` for each."""
    await connection.execute(NOTE_USES, {"ids": list(ids), "interval": USE_INTERVAL})
