"""Authentication: the credential of a request becomes a `Credential`."""

from typing import TYPE_CHECKING

from db.queries import page_sessions
from db.session.database import Database
from service.domain.errors import Unauthenticated
from service.http.access.credential import Credential
from service.http.access.lookups import KeyLookups
from service.http.access.merged_lookups import MergedLookups
from service.http.access.source_rates import SourceRates
from service.input.issuer import Issuer

if TYPE_CHECKING:
    from service.http.access.tokens import Tokens


class Authentication:
    """The way from a request's credential to its source and its scopes."""

    def __init__(self, database: Database, issuer: Issuer | None = None) -> None:
        self.keys = KeyLookups(database)
        self.page_sessions = MergedLookups(database, page_sessions.find_sessions)
        """The sessions of the operator's page, by the digests of their cookies."""
        self.tokens = None if issuer is None else _open_tokens(issuer, database)

    async def require(self, authorization: bytes | None) -> Credential:
        """Return the valid credential of a request. Raises `Unauthenticated`."""
        if authorization is None or authorization[:7].lower() != b"bearer ":
            raise Unauthenticated("Send a key as `Authorization: Bearer <key>`.")
        presented, found = authorization[7:].strip(), None
        if self.tokens is not None and presented.count(b".") == 2:
            found = await self.tokens.find(presented)
        if found is None:
            found = await self.keys.find(presented)
        if found is None:
            raise Unauthenticated("This key does not exist, was revoked or has expired.")
        return found


def _open_tokens(issuer: Issuer, database: Database) -> "Tokens":
    from service.http.access.tokens import Tokens  # noqa: PLC0415 - its library is an extra

    return Tokens(issuer, SourceRates(database))
