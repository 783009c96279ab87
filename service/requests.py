"""From bytes to values: headers, bodies, paths and queries, refused by name if malformed."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec
from litestar import Request
from pydantic import TypeAdapter, ValidationError

from service.bodies import VERSION_MAX, Body, Name, Place, parse
from service.commands import Caller
from service.errors import (
    Forbidden,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    ServiceError,
    TooLarge,
    UnsupportedMediaType,
)
from service.services import Services

HttpRequest = Request[Any, Any, Any]
B = TypeVar("B", bound=Body)

BODY_MAX = 1024 * 1024
LARGE_BODY_MAX = 4 * 1024 * 1024
LIMIT_DEFAULT = 50
LIMIT_MAX = 500

# What a cursor is made of. PostgreSQL takes no other values, so no list has given any.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Ordinal = Annotated[int, msgspec.Meta(ge=1, le=VERSION_MAX)]
Step = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Text = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]*\Z")]

_name = TypeAdapter(Name)
_place = TypeAdapter(Place)


def services_of(request: HttpRequest) -> Services:
    """Return what the application was built from."""
    services: Services = request.app.state.services
    return services


def note_refusal(request: HttpRequest, error: ServiceError) -> None:
    """Note who was refused, if it was for the lack of a key or of a right."""
    if error.status in (401, 403):
        client = request.scope.get("client")
        services_of(request).refusals.note(client[0] if client else "unknown", error.code)


def header(request: HttpRequest, name: bytes) -> bytes | None:
    """Return a header's value, the last one if it was sent twice; `name` in lower case."""
    value = None
    for sent, content in request.scope["headers"]:
        if sent == name:
            value = content
    return value


async def caller_of(request: HttpRequest, scope: str) -> Caller:
    """Return who calls, with the scope that this needs, and check that JSON is welcome."""
    authorization = accept = None
    for name, value in request.scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"accept":
            accept = value
    if accept is not None and accept != b"*/*":
        check_acceptable(accept)
    return await services_of(request).keys.require(authorization, scope)


def check_acceptable(accept: bytes) -> None:
    """Raise `NotAcceptable` unless JSON is among what the client accepts."""
    if not quality(accept, "application/json"):
        raise NotAcceptable("Answers are application/json and application/problem+json.")


def quality(accept: bytes, media_type: str) -> float:
    """Return how welcome a media type is, from 0 to 1 (RFC 9110, 12.4.2); no number counts as 1."""
    accepted: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        weights = (re.fullmatch(r"q=([01](?:\.[0-9]*)?)", parameter) for parameter in parameters)
        accepted[media_range] = next((float(weight[1]) for weight in weights if weight), 1.0)
    kind = media_type.partition("/")[0]
    for media_range in (media_type, f"{kind}/*", "*/*"):  # the most specific decides
        if media_range in accepted:
            return accepted[media_range]
    return 0.0


def prefers_html(request: HttpRequest) -> bool:
    """True when the client would rather have a page than JSON, as browsers would."""
    accept = header(request, b"accept") or b"*/*"
    return quality(accept, "text/html") > quality(accept, "application/json")


async def read_bytes(request: HttpRequest, media_type: str, limit: int) -> bytes:
    """Return the body. Raises `TooLarge`, `UnsupportedMediaType`, `InvalidRequest`."""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            _check_media_type(value, media_type)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("Send the body without a content encoding.")
        elif name == b"content-length" and value.isdigit() and int(value) > limit:
            raise TooLarge(f"A body here may have {limit} bytes.")
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest.at("body", "was cut off")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"A body here may have {limit} bytes.")
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


async def read_body(request: HttpRequest, model: type[B], limit: int = BODY_MAX) -> B:
    """Return the validated JSON body."""
    return parse(model, await read_bytes(request, "application/json", limit))


async def read_optional_body(request: HttpRequest, model: type[B]) -> B:
    """Return the validated JSON body; an empty one is an object without members."""
    has_body = any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in request.scope["headers"]
    )
    if not has_body:
        return model()
    raw = await read_bytes(request, "application/json", BODY_MAX)
    return parse(model, raw) if raw.strip() else model()


def _check_media_type(value: bytes, expected: str) -> None:
    media_type, *parameters = (part.strip() for part in value.decode("latin-1").lower().split(";"))
    charsets = [
        parameter.removeprefix("charset=").strip('"')
        for parameter in parameters
        if parameter.startswith("charset=")
    ]
    if media_type != expected or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise UnsupportedMediaType(f"Send Content-Type: {expected}, in UTF-8.")


def seq_of(request: HttpRequest, seq: str | None) -> str:
    """Return the request's serial number, from its body or from its Idempotency-Key."""
    sent = header(request, b"idempotency-key")
    if sent is None:
        if seq is None:
            raise InvalidRequest.at("seq", "is missing: send it, or an Idempotency-Key header")
        return seq
    key = _idempotency_key(sent)
    if seq is not None and seq != key:
        raise InvalidRequest.at("Idempotency-Key", "differs from seq")
    return key


def _idempotency_key(sent: bytes) -> str:
    """The key, bare or as a structured field's string (RFC 9651, 3.3.3)."""
    try:
        text = sent.decode()
        if text.startswith('"'):
            if not re.fullmatch(r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"', text):
                raise InvalidRequest.at("Idempotency-Key", "is not a structured field's string")
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        return _name.validate_python(text)
    except UnicodeDecodeError:
        raise InvalidRequest.at("Idempotency-Key", "is not UTF-8") from None
    except ValidationError as error:
        raise InvalidRequest.at("Idempotency-Key", error.errors()[0]["msg"]) from None


def check_source(caller: Caller, source: str | None) -> None:
    """Raise `Forbidden` when a body names another source than the credential's."""
    if source is not None and source != caller.source:
        raise Forbidden("The source that is named is not the credential's.")


def place(value: str, name: str) -> str:
    """Return a SKU or location from a path, percent-decoded. Raises `InvalidRequest`."""
    try:
        return _place.validate_python(unquote_to_bytes(value).decode())
    except UnicodeDecodeError:
        raise InvalidRequest.at(name, "is not UTF-8") from None
    except ValidationError as error:
        raise InvalidRequest.at(name, error.errors()[0]["msg"]) from None


def identifier(value: str) -> UUID:
    """Return an id from a path. What is not an id names nothing: raises `NotFound`."""
    try:
        if len(value) == 36:
            return UUID(value)
    except ValueError:
        pass
    raise NotFound("There is no such reservation.")


def precondition(request: HttpRequest, name: bytes) -> int | None:
    """Return the version that If-Match names; None when the header is absent."""
    sent = header(request, name)
    if sent is None:
        return None
    found = re.fullmatch(rb'"([1-9][0-9]{0,18})"', sent.strip())
    if found is None:
        raise InvalidRequest.at("If-Match", 'must name one version: "3"')
    return int(found[1])


class Query:
    """The query string, each parameter taken once; what is left over is refused."""

    def __init__(self, request: HttpRequest) -> None:
        self._values: dict[str, str] = {}
        raw = request.scope["query_string"]
        for pair in raw.split(b"&") if raw else ():
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            try:
                key, text = unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise InvalidRequest.at("query", "is not UTF-8") from None
            if key in self._values:
                raise InvalidRequest.at(key, "is given twice")
            if "\x00" in text:
                raise InvalidRequest.at(key, "has a NUL character")
            self._values[key] = text

    def text(self, name: str) -> str | None:
        """Take a parameter as it is."""
        return self._values.pop(name, None)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Take a parameter that is one of a few words."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise InvalidRequest.at(name, f"must be one of {', '.join(choices)}")
        return value

    def moment(self, name: str) -> datetime | None:
        """Take a moment in ISO 8601 with its offset from UTC."""
        value = self.text(name)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value.replace(" ", "+"))  # an offset's bare plus
            if moment.utcoffset() is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise InvalidRequest.at(name, "must be a moment like 2026-11-22T19:20:00Z")

    def limit(self) -> int:
        """Take the length of a page."""
        value = self.text("limit")
        if value is None:
            return LIMIT_DEFAULT
        if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= LIMIT_MAX:
            raise InvalidRequest.at("limit", f"must be a number from 1 to {LIMIT_MAX}")
        return int(value)

    def cursor(self, kind: Any) -> Any:
        """Take the cursor, made by `cursor_after` from a value of the type `kind`."""
        value = self.text("cursor")
        if value is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(value.encode("ascii") + b"=" * (-len(value) % 4))
            cursor = msgspec.json.decode(raw, type=kind, strict=True)
            if cursor_after(cursor) == value and not _has_offset(cursor):
                return cursor
        except (ValueError, binascii.Error, msgspec.MsgspecError):
            pass
        raise InvalidRequest.at("cursor", "is not one that a list has given")

    def end(self) -> None:
        """Raise `InvalidRequest` for the first parameter that was not taken."""
        for name in self._values:
            raise InvalidRequest.at(name, "is not a parameter here")


def _has_offset(cursor: Any) -> bool:
    """True when a moment in a cursor is not in UTC, as all that a list has given are."""
    parts = cursor if isinstance(cursor, tuple) else (cursor,)
    return any(isinstance(part, datetime) and bool(part.utcoffset()) for part in parts)


def cursor_after(value: Any) -> str:
    """Return the cursor that continues after this place in a list's order."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()
