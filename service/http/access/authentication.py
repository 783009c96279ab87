"""Authentication: the credential of a request becomes a `Credential`."""

from db.session.database import Database
from service.domain.errors import Forbidden, Unauthenticated
from service.http.access.credential import Credential
from service.http.access.lookups import KeyLookups
from service.http.limits.rate_limit import RateLimit


class Authentication:
    """The way from a request's credential to its source and its scopes."""

    def __init__(self, database: Database, rate_limit: RateLimit) -> None:
        self.keys = KeyLookups(database)
        self.rate_limit = rate_limit

    async def require(self, authorization: bytes | None, scope: str) -> Credential:
        """Return the credential. Raises `Unauthenticated`, `Forbidden`, `RateLimited`."""
        if authorization is None or authorization[:7].lower() != b"bearer ":
            raise Unauthenticated("Send a key as `Authorization: Bearer <key>`.")
        found = await self.keys.find(authorization[7:].strip())
        if found is None:
            raise Unauthenticated("This key does not exist, was revoked or has expired.")
        if not found.allows(scope):
            raise Forbidden(f"This needs a key with the scope {scope}.")
        self.rate_limit.count(found.id)
        return found
