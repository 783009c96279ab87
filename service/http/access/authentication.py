"""Authentication: the credential of a request becomes a `Credential`."""

from db.session.database import Database
from service.domain.errors import Unauthenticated
from service.http.access.credential import Credential
from service.http.access.lookups import KeyLookups


class Authentication:
    """The way from a request's credential to its source and its scopes."""

    def __init__(self, database: Database) -> None:
        self.keys = KeyLookups(database)

    async def require(self, authorization: bytes | None) -> Credential:
        """Return the valid credential of a request. Raises `Unauthenticated`."""
        if authorization is None or authorization[:7].lower() != b"bearer ":
            raise Unauthenticated("Send a key as `Authorization: Bearer <key>`.")
        found = await self.keys.find(authorization[7:].strip())
        if found is None:
            raise Unauthenticated("This key does not exist or was revoked.")
        return found
