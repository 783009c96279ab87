"""Sessions of the operator's page and one-time tokens of its forms, found by their digests.

A token that goes with a command is consumed in `db.writes`, with the command's effect.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.models import ApiKey, PageSession, PageToken

NOW: ColumnElement[datetime] = func.now()
"""The moment of BEGIN: nothing here waits on a lock for long."""


async def create_session(
    connection: AsyncConnection, digest: bytes, key_id: UUID, lifetime: timedelta
) -> None:
    """Store a session, and forget those and the tokens whose time is over."""
    await connection.execute(delete(PageSession).where(PageSession.expires_at <= NOW))
    await connection.execute(delete(PageToken).where(PageToken.expires_at <= NOW))
    await connection.execute(
        insert(PageSession).values(
            digest=digest, key_id=key_id, created_at=NOW, expires_at=NOW + lifetime
        )
    )


async def find_session(connection: AsyncConnection, digest: bytes) -> Row[*tuple[Any, ...]] | None:
    """Return the key's id, source and scopes of a session, unless it is over or its key revoked."""
    statement = (
        select(ApiKey.id, ApiKey.source, ApiKey.scopes)
        .join(PageSession, PageSession.key_id == ApiKey.id)
        .where(
            PageSession.digest == digest,
            PageSession.expires_at > NOW,
            ApiKey.revoked_at.is_(None),
        )
    )
    return (await connection.execute(statement)).one_or_none()


async def create_tokens(
    connection: AsyncConnection, digests: Sequence[bytes], lifetime: timedelta
) -> None:
    """Store tokens that can be consumed once each."""
    moments = {"created_at": NOW, "expires_at": NOW + lifetime}
    await connection.execute(
        insert(PageToken).values([{"digest": digest, **moments} for digest in digests])
    )


async def end_session(connection: AsyncConnection, session: bytes, token: bytes) -> bool:
    """Consume a token and delete the session; False when the token can't be consumed."""
    consumed = await connection.execute(
        update(PageToken)
        .where(PageToken.digest == token, PageToken.used_at.is_(None), PageToken.expires_at > NOW)
        .values(used_at=NOW)
        .returning(PageToken.digest)
    )
    if consumed.one_or_none() is None:
        return False
    await connection.execute(delete(PageSession).where(PageSession.digest == session))
    return True
