"""Credentials in the database: found by the key's digest, never by the key."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import ApiKey

COLUMNS = (ApiKey.id, ApiKey.source, ApiKey.scopes, ApiKey.created_at, ApiKey.revoked_at)


async def find(connection: AsyncConnection, digest: bytes) -> Row[*tuple[Any, ...]] | None:
    """Return the credential with that digest, unless it is revoked."""
    statement = select(*COLUMNS).where(ApiKey.digest == digest, ApiKey.revoked_at.is_(None))
    return (await connection.execute(statement)).one_or_none()


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
        insert(ApiKey).values(
            id=id_,
            digest=digest,
            source=source,
            scopes=scopes,
            created_at=func.now(),
            is_first=is_first,
        )
    )


async def every(connection: AsyncConnection) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return all credentials in order of creation, revoked ones too."""
    statement = select(*COLUMNS).order_by(ApiKey.created_at, ApiKey.id)
    return (await connection.execute(statement)).all()


async def revoke(connection: AsyncConnection, id_: UUID) -> bool:
    """Revoke a credential; True when there is one of that id, revoked before or now."""
    statement = (
        update(ApiKey)
        .where(ApiKey.id == id_)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
        .returning(ApiKey.id)
    )
    return (await connection.execute(statement)).one_or_none() is not None


async def revoke_first(connection: AsyncConnection, kept: bytes, others: Sequence[bytes]) -> bool:
    """Revoke all first admin keys and `others` but for the key `kept`; True when there were any."""
    statement = (
        update(ApiKey)
        .where(
            or_(ApiKey.is_first, ApiKey.digest.in_(others)),
            ApiKey.digest != kept,
            ApiKey.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
        .returning(ApiKey.id)
    )
    return bool((await connection.execute(statement)).all())


async def find_any(connection: AsyncConnection, digest: bytes) -> bool:
    """True when there is, or was, a credential with that digest."""
    statement = select(ApiKey.id).where(ApiKey.digest == digest)
    return await connection.scalar(statement) is not None


async def has_admin(connection: AsyncConnection) -> bool:
    """True when there is a credential with the scope admin that is not revoked."""
    statement = select(ApiKey.id).where(
        ApiKey.scopes.contains(["admin"]), ApiKey.revoked_at.is_(None)
    )
    return await connection.scalar(statement.limit(1)) is not None
