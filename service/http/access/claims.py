"""The claims of a token (RFC 7519): its times, its source and its scopes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from db.vocabulary import Scope
from service.domain.errors import InvalidRequest, Unauthenticated
from service.input.issuer import Issuer
from service.input.names import name_at

LEEWAY_SECONDS = 60.0  # the clocks of the issuer and of the service may differ by so much
TIME_MAX = 253_402_300_799
"""The last second of the year 9999. A later time is often one in milliseconds."""
PREFIX = "holdfast:"
SCOPES = {f"{PREFIX}{scope}": str(scope) for scope in Scope}


class Claims(NamedTuple):
    """The claims of a valid token."""

    source: str
    scopes: frozenset[str]
    ends_at: float
    """The moment from which it is expired, leeway included, in seconds since 1970."""


def read_claims(claims: Mapping[str, Any], issuer: Issuer, now: float) -> Claims:
    """Check the claims; `now` is in seconds since 1970. Raises `Unauthenticated`."""
    if claims.get("iss") != issuer.name:
        raise Unauthenticated("This token is from another issuer: see its claim iss.")
    if not _is_for(claims.get("aud"), issuer.audience):
        raise Unauthenticated("This token is for another audience: see its claim aud.")
    ends_at = _check_times(claims, now)
    return Claims(_source(claims, issuer.source_claim), _scopes(claims), ends_at)


def _is_for(audience: Any, wanted: str) -> bool:
    return audience == wanted or (isinstance(audience, list) and wanted in audience)


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    """Return the moment from which the token is expired, leeway included."""
    ends_at = _time(claims, "exp")
    if ends_at is None:
        raise Unauthenticated("This token has no claim exp: only tokens that expire are accepted.")
    if now >= ends_at + LEEWAY_SECONDS:
        raise Unauthenticated("This token has expired: see its claim exp.")
    for name in ("nbf", "iat"):
        begins_at = _time(claims, name)
        if begins_at is not None and begins_at > now + LEEWAY_SECONDS:
            raise Unauthenticated(f"This token is not valid yet: see its claim {name}.")
    return ends_at + LEEWAY_SECONDS


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time in seconds since 1970; None if the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > TIME_MAX:
        raise Unauthenticated(f"The claim {name} of this token is not a number of seconds.")
    return float(value)


def _source(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Unauthenticated(f"This token has no text in its claim {name}, which names a source.")
    try:
        return name_at(name, value)
    except InvalidRequest as error:
        message = error.fields["errors"][0]["message"]
        raise Unauthenticated(
            f"The claim {name} of this token is no source: it {message}."
        ) from None


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes of this service. Other services have other prefixes."""
    text = claims.get("scope", "")
    if not isinstance(text, str):
        raise Unauthenticated("The claim scope of this token is not a text, divided by spaces.")
    return frozenset(SCOPES[name] for name in text.split(" ") if name in SCOPES)
