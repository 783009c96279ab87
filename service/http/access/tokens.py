"""JSON Web Tokens in place of keys: a valid token becomes a credential (RFC 7519, RFC 8725).

A token decides neither how it is verified nor with which key: the operator's settings and the
issuer's keys do. A verified token is remembered until it expires or the issuer's keys change.
"""

import base64
import binascii
import re
import time
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import jwt
import msgspec

from db.vocabulary import Scope
from service.domain.commands import Caller
from service.domain.errors import Unauthenticated
from service.http.access.claims import read_claims
from service.http.access.credential import Credential
from service.http.access.issuer_keys import IssuerKeys
from service.http.access.key_set import IssuerKey
from service.http.access.source_rates import SourceRates
from service.input.issuer import Issuer
from service.input.json_text import is_too_deep

SIZE_MAX = 16 * 1024
KNOWN_MAX = 10_000  # verified tokens remembered
KNOWN_BYTES_MAX = 16 * 1024 * 1024

SPEAKERS = UUID("6f1a3f5e-9a55-4c36-8d0b-2a7f0f6f3f0c")
"""The namespace of the ids of credentials: one for each issuer and source."""

_PART = re.compile(rb"[A-Za-z0-9_-]+")


class KnownToken(NamedTuple):
    """A token that was verified."""

    ends_at: float
    """The moment from which it is expired, in seconds since 1970."""
    credential: Credential


class Tokens:
    """The tokens that a worker has verified, and the keys to verify others."""

    def __init__(self, issuer: Issuer, rates: SourceRates) -> None:
        self.issuer = issuer
        self.rates = rates
        self.keys = IssuerKeys(issuer, on_change=self._forget)
        self._jws = jwt.PyJWS(algorithms=list(issuer.algorithms))
        self._known: dict[bytes, KnownToken] = {}
        self._known_bytes = 0

    async def find(self, text: bytes) -> Credential | None:
        """Return the credential of a valid token; None for a text that is not a token at all.

        Raises `Unauthenticated` and `Unavailable`.
        """
        found = self._remembered(text) or await self._verify(text)
        if found is not None:
            rate = await self.rates.find(found.caller.source)
            found.requests_per_second = None if rate is None else rate.requests_per_second
        return found

    def _remembered(self, text: bytes) -> Credential | None:
        known = self._known.get(text)
        return None if known is None or time.time() >= known.ends_at else known.credential

    async def _verify(self, text: bytes) -> Credential | None:
        header = _header_of(text)
        if header is None:
            return None
        if len(text) > SIZE_MAX:
            raise Unauthenticated(f"This token has more than {SIZE_MAX // 1024} KiB.")
        key = await self._key_for(header)
        claims = read_claims(self._verified(text, key), self.issuer, time.time())
        return self._remember(text, claims.source, claims.scopes, claims.ends_at)

    async def _key_for(self, header: dict[str, Any]) -> IssuerKey:
        """Return the key that the header names. It is never taken from the header itself."""
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self.issuer.algorithms:
            raise Unauthenticated("The algorithm of this token is not accepted.")
        if "crit" in header:
            raise Unauthenticated("This token has critical extensions, and none is supported.")
        if "kid" in header and not isinstance(kid, str):
            raise Unauthenticated("The kid of this token is not a text.")
        key = await self.keys.find(kid, algorithm)
        if key is None:
            raise Unauthenticated("The issuer has no key that fits this token.")
        return key

    def _verified(self, text: bytes, key: IssuerKey) -> dict[str, Any]:
        """Return the claims of a token whose signature is valid."""
        try:
            decoded = self._jws.decode_complete(text, key.verifier, [key.algorithm])
        except jwt.PyJWTError:
            raise Unauthenticated("The signature of this token is not valid.") from None
        claims = _json_object(decoded["payload"])
        if claims is None:
            raise Unauthenticated("The claims of this token are not a JSON object.")
        return claims

    def _remember(
        self, text: bytes, source: str, scopes: frozenset[str], ends_at: float
    ) -> Credential:
        now = time.monotonic()
        credential = Credential(
            id=uuid5(SPEAKERS, f"{self.issuer.name}\n{source}"),
            caller=Caller(source, every_source=Scope.ADMIN in scopes),
            scopes=scopes,
            looked_up_at=now,
            ends_at=now + ends_at - time.time(),
        )
        if len(self._known) >= KNOWN_MAX or self._known_bytes + len(text) > KNOWN_BYTES_MAX:
            self._forget()
        if text not in self._known:
            self._known_bytes += len(text)
        self._known[text] = KnownToken(ends_at, credential)
        return credential

    def _forget(self) -> None:
        """Forget the verified tokens: the keys of some may have been withdrawn."""
        self._known.clear()
        self._known_bytes = 0


def _header_of(text: bytes) -> dict[str, Any] | None:
    """Return the header of a token; None if the text does not have the form of a token."""
    parts = text.split(b".", 3)
    if len(parts) != 3 or not _PART.fullmatch(parts[0]) or len(parts[0]) > SIZE_MAX:
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[0] + b"=" * (-len(parts[0]) % 4))
    except binascii.Error:
        return None
    return _json_object(raw)


def _json_object(raw: bytes) -> dict[str, Any] | None:
    """Return a JSON object that is not nested too deep; None for any other text."""
    if is_too_deep(raw):
        return None
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
