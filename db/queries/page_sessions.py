"""Sessions of the operator's page, found by the digests of their cookies."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import ApiKeyTable, PageSessionTable, SourceLimitTable

NOW: ColumnElement[datetime] = func.now()
"""The time of BEGIN, which is exact enough because nothing here waits long for a lock."""


async def create_session(
    connection: AsyncConnection, digest: bytes, key_id: UUID, lifetime: timedelta
) -> None:
    """Store a session, and delete expired ones."""
    await connection.execute(delete(PageSessionTable).where(PageSessionTable.expires_at <= NOW))
    await connection.execute(
        insert(PageSessionTable).values(
            digest=digest, key_id=key_id, created_at=NOW, expires_at=NOW + lifetime
        )
    )


async def find_session(connection: AsyncConnection, digest: bytes) -> Row[*tuple[Any, ...]] | None:
    """Return the id, source, scopes and rate of a session's key, unless either is invalid."""
    statement = (
        select(
            ApiKeyTable.id,
            ApiKeyTable.source,
            ApiKeyTable.scopes,
            SourceLimitTable.requests_per_second,
        )
        .join(PageSessionTable, PageSessionTable.key_id == ApiKeyTable.id)
        .outerjoin(SourceLimitTable, SourceLimitTable.source == ApiKeyTable.source)
        .where(
            PageSessionTable.digest == digest,
            PageSessionTable.expires_at > NOW,
            ApiKeyTable.revoked_at.is_(None),
        )
    )
    return (await connection.execute(statement)).one_or_none()


async def end_session(connection: AsyncConnection, digest: bytes) -> None:
    """Delete a session if it exists."""
    await connection.execute(delete(PageSessionTable).where(PageSessionTable.digest == digest))
