"""Reads headers in linear time, with a limit on the number of items.

Several lines of one header are one list, joined with commas (RFC 9110, 5.3).
"""

import re

from service.domain.errors import InvalidRequest, NotAcceptable, UnsupportedMediaType
from service.input.bodies import NAME_MAX
from service.input.names import name_at

RANGES_MAX = 100
"""Media ranges in Accept; browsers send fewer than ten."""

PARAMETERS_MAX = 8
"""Parameters of a media type or range."""

CONTENT_TYPE_MAX = 256
IDEMPOTENCY_KEY_MAX = 4 * NAME_MAX
"""Bytes. A character has up to four; in a quoted key it is ASCII, perhaps with a backslash."""


def check_acceptable(accept: bytes) -> None:
    """Raise `NotAcceptable` unless the client accepts JSON; an empty header accepts everything."""
    if not accept.strip(b" \t,") or quality(accept, "application/json"):
        return
    if accept.count(b",") >= RANGES_MAX:
        raise InvalidRequest.at("Accept", f"has more than {RANGES_MAX} media ranges")
    raise NotAcceptable("Answers are application/json and application/problem+json.")


def quality(accept: bytes, media_type: str) -> float:
    """Return the weight of a media type, from 0 to 1 (RFC 9110, 12.4.2); the default is 1."""
    accepted: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(",", RANGES_MAX)[:RANGES_MAX]:
        media_range, *parameters = (part.strip() for part in item.split(";", PARAMETERS_MAX))
        weights = (re.fullmatch(r"q=([01](?:\.[0-9]*)?)", parameter) for parameter in parameters)
        weight = next((float(weight[1]) for weight in weights if weight), 1.0)
        accepted[media_range] = max(weight, accepted.get(media_range, 0.0))
    kind = media_type.partition("/")[0]
    for media_range in (media_type, f"{kind}/*", "*/*"):  # the most specific decides
        if media_range in accepted:
            return accepted[media_range]
    return 0.0


def check_media_type(content_type: bytes, expected: str) -> None:
    """Raise `UnsupportedMediaType` unless a body has the expected type, in UTF-8."""
    text = content_type[:CONTENT_TYPE_MAX].decode("latin-1").lower()
    media_type, *parameters = (part.strip() for part in text.split(";", PARAMETERS_MAX))
    charsets = [
        parameter.removeprefix("charset=").strip('"')
        for parameter in parameters
        if parameter.startswith("charset=")
    ]
    if (
        media_type != expected
        or len(content_type) > CONTENT_TYPE_MAX
        or any(charset not in ("utf-8", "utf8") for charset in charsets)
    ):
        raise UnsupportedMediaType(f"Send Content-Type: {expected}, in UTF-8.")


def idempotency_key(sent: bytes) -> str:
    """Return the key, sent bare or as a string of structured fields (RFC 9651, 3.3.3)."""
    path = "Idempotency-Key"
    if len(sent) > IDEMPOTENCY_KEY_MAX:
        raise InvalidRequest.at(path, f"has more than {NAME_MAX} characters")
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        raise InvalidRequest.at(path, "is not UTF-8") from None
    if text.startswith('"'):
        if not re.fullmatch(r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"', text):
            raise InvalidRequest.at(path, 'is not a quoted string of ASCII, as "order-1001"')
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    return name_at(path, text)


def version(path: str, sent: bytes) -> int:
    """Return the single version that a precondition names: an ETag of a GET, strong or weak.

    A proxy that compresses an answer makes its ETag weak. Empty items of the list are ignored.
    """
    found = re.fullmatch(rb'(?:W/)?"([1-9][0-9]{0,18})"', sent.strip(b" \t,"))
    if found is None:
        raise InvalidRequest.at(path, 'must name one version, like "3": the ETag of a GET')
    return int(found[1])


def matches(if_none_match: bytes, tag: bytes) -> bool:
    """True when a list of ETags contains this one, weak or not (RFC 9110, 13.1.2), or is `*`."""
    return tag in if_none_match or if_none_match.strip() == b"*"  # quotes are only at a tag's ends


def cookie(sent: bytes, name: bytes) -> bytes | None:
    """Return the value of a cookie of this service: letters, digits, `-` and `_`."""
    found = re.search(rb"(?:^|;)\s*%b=([A-Za-z0-9_-]+)\s*(?:;|$)" % re.escape(name), sent)
    return found and found[1]
