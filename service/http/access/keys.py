"""Keys: how one is made, and how its digest is stored in its place.

A key is 256 random bits, so its SHA-256 can be stored and looked up: such a key can't be guessed,
so a slow hash would protect nothing.
"""

import hashlib
import secrets
from uuid import UUID, uuid4

from db.queries import credentials
from db.session.database import Database, Transaction

PREFIX = "hf_"  # lets secret scanners recognise a key
SHOWN_MAX = 8  # the first characters, which lists show: 5 of 43 random ones
SHOWN_FROM = 32  # characters; of a shorter key nothing is shown, because the rest could be guessed


def digest(key: bytes) -> bytes:
    """Return the digest of a key, which is stored in its place."""
    return hashlib.sha256(key).digest()


def new_key() -> str:
    """Return a new random key."""
    return PREFIX + secrets.token_urlsafe(32)


def prefix_of(key: str) -> str | None:
    """Return the first characters of a key, by which people recognise it; None if it is short."""
    return key[:SHOWN_MAX] if len(key) >= SHOWN_FROM else None


async def store_key(
    database: Database, key: str, source: str, scopes: list[str], *, is_first: bool = False
) -> UUID:
    """Store a key's digest with its source and scopes; return the credential's id.

    `is_first` marks the admin key that a service was started with.
    """
    id_ = uuid4()

    async def work(transaction: Transaction) -> None:
        connection = transaction.connection
        new = credentials.NewCredential(
            id=id_,
            digest=digest(key.encode()),
            prefix=prefix_of(key),
            source=source,
            scopes=scopes,
            created_at=await credentials.read_clock(connection),
            is_first=is_first,
        )
        await credentials.create(connection, new)

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

    Returns whether any key was revoked. None is if `key` itself is not valid or expires.
    """
    others = [] if before is None else [digest(before.encode())]

    async def work(transaction: Transaction) -> bool:
        await credentials.lock_revocations(transaction.connection)
        return await credentials.revoke_first(transaction.connection, digest(key.encode()), others)

    return await database.transact(work)
