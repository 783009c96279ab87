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
