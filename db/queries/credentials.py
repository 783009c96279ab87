"""Credentials in the database, found by the digest of the key, never by the key."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import ApiKeyTable, SourceLimitTable
from db.vocabulary import Scope

COLUMNS = (
    ApiKeyTable.id,
    ApiKeyTable.source,
    ApiKeyTable.scopes,
    ApiKeyTable.created_at,
    ApiKeyTable.revoked_at,
)


async def find(connection: AsyncConnection, digest: bytes) -> Row[*tuple[Any, ...]] | None:
    """Return the credential with that digest and its source's rate, unless it is revoked."""
    statement = (
        select(*COLUMNS, SourceLimitTable.requests_per_second)
        .outerjoin(SourceLimitTable, SourceLimitTable.source == ApiKeyTable.source)
        .where(ApiKeyTable.digest == digest, ApiKeyTable.revoked_at.is_(None))
    )
    return (await connection.execute(statement)).one_or_none()


async def rate_of(connection: AsyncConnection, source: str) -> int | None:
    """Return the requests a second that a source may send; None if it has no such limit."""
    statement = select(SourceLimitTable.requests_per_second).where(
        SourceLimitTable.source == source
    )
    return (await connection.execute(statement)).scalar_one_or_none()


async def create(
    connection: AsyncConnection,
    id_: UUID,
    digest: bytes,
    source: str,
    scopes: list[str],
    *,
    is_first: bool = False,
) -> None:
    """Store a credential; `is_first` marks the admin key that a service was started with."""
    await connection.execute(
        insert(ApiKeyTable).values(
            id=id_,
            digest=digest,
            source=source,
            scopes=scopes,
            created_at=func.now(),
            is_first=is_first,
        )
    )


async def list_all(connection: AsyncConnection) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return all credentials in order of creation, including revoked ones."""
    statement = select(*COLUMNS).order_by(ApiKeyTable.created_at, ApiKeyTable.id)
    return (await connection.execute(statement)).all()


async def revoke(connection: AsyncConnection, id_: UUID) -> bool:
    """Revoke a credential; True when one with that id exists, even if it was revoked before."""
    statement = (
        update(ApiKeyTable)
        .where(ApiKeyTable.id == id_)
        .values(revoked_at=func.coalesce(ApiKeyTable.revoked_at, func.now()))
        .returning(ApiKeyTable.id)
    )
    return (await connection.execute(statement)).one_or_none() is not None


async def revoke_first(connection: AsyncConnection, kept: bytes, others: Sequence[bytes]) -> bool:
    """Revoke all first admin keys and `others`, except the key `kept`; True when there were any."""
    statement = (
        update(ApiKeyTable)
        .where(
            or_(ApiKeyTable.is_first, ApiKeyTable.digest.in_(others)),
            ApiKeyTable.digest != kept,
            ApiKeyTable.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
        .returning(ApiKeyTable.id)
    )
    return bool((await connection.execute(statement)).all())


async def is_known(connection: AsyncConnection, digest: bytes) -> bool:
    """True when a credential with that digest exists, valid or revoked."""
    statement = select(ApiKeyTable.id).where(ApiKeyTable.digest == digest)
    return await connection.scalar(statement) is not None


async def has_admin(connection: AsyncConnection) -> bool:
    """True when a valid credential has the scope admin."""
    statement = select(ApiKeyTable.id).where(
        ApiKeyTable.scopes.contains([Scope.ADMIN]), ApiKeyTable.revoked_at.is_(None)
    )
    return await connection.scalar(statement.limit(1)) is not None
