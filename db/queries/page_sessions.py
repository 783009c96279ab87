"""Sessions of the operator's page, found by the digests of their cookies."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    Row,
    any_,
    cast,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import ApiKeyTable, PageSessionTable, SourceLimitTable
from db.queries.credentials import IS_VALID, UNUSED_SECONDS

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


async def find_sessions(
    connection: AsyncConnection, digests: Sequence[bytes]
) -> dict[bytes, Row[*tuple[Any, ...]]]:
    """Return the id, source, scopes and rate of the key of each valid session, by its digest.

    `unused_seconds` are those since the last use of the key that is stored, or null.
    """
    statement = (
        select(
            PageSessionTable.digest,
            ApiKeyTable.id,
            ApiKeyTable.source,
            ApiKeyTable.scopes,
            UNUSED_SECONDS,
            SourceLimitTable.requests_per_second,
        )
        .join(PageSessionTable, PageSessionTable.key_id == ApiKeyTable.id)
        .outerjoin(SourceLimitTable, SourceLimitTable.source == ApiKeyTable.source)
        .where(
            PageSessionTable.digest == any_(cast(digests, ARRAY(LargeBinary))),
            PageSessionTable.expires_at > NOW,
            IS_VALID,
        )
    )
    return {row.digest: row for row in await connection.execute(statement)}


async def end_session(connection: AsyncConnection, digest: bytes) -> None:
    """Delete a session if it exists."""
    await connection.execute(delete(PageSessionTable).where(PageSessionTable.digest == digest))
