"""From bytes to values: who calls, bodies, ids and names in paths, refused by name if malformed."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

from litestar import Request

from service.domain.commands import Caller
from service.domain.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    ServiceError,
    TooLarge,
    UnsupportedMediaType,
)
from service.http.limits.body_room import SMALL
from service.http.worker_state import Services
from service.input import headers
from service.input.bodies import Body, ReserveBody
from service.input.json_text import BOM
from service.input.names import path_name_at
from service.input.parsing import InvalidEntry, parse, parse_batch

HttpRequest = Request[Any, Any, Any]
B = TypeVar("B", bound=Body)

JSON = "application/json"
BODY_MAX = 1024 * 1024
LARGE_BODY_MAX = 4 * 1024 * 1024
LENGTH_DIGITS_MAX = 15
"""Digits of a Content-Length that are looked at: more are too many."""

UNDECODED = "\ufffd"
"""What a path has, before it is percent-decoded, in place of bytes that are not UTF-8."""

UUID_FORM = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


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


def header_list(request: HttpRequest, name: bytes) -> bytes | None:
    """Return a header that is a list, all of its lines; `name` in lower case."""
    values = [content for sent, content in request.scope["headers"] if sent == name]
    return b",".join(values) if values else None


async def caller_of(request: HttpRequest, scope: str) -> Caller:
    """Return who calls, with the scope that this needs; then check that JSON is welcome.

    The key comes before everything else: without one, nothing that was sent is worth a look.
    """
    authorization, is_choosy = None, False
    for name, value in request.scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"accept" and value != b"*/*":
            is_choosy = True
    caller = await services_of(request).keys.require(authorization, scope)
    if is_choosy:
        headers.check_acceptable(header_list(request, b"accept") or b"")
    return caller


def prefers_html(request: HttpRequest) -> bool:
    """True when the client would rather have a page than JSON, as browsers would."""
    accept = header_list(request, b"accept") or b"*/*"
    return headers.quality(accept, "text/html") > headers.quality(accept, "application/json")


async def read_bytes(request: HttpRequest, media_type: str, limit: int) -> bytes:
    """Return the body. Raises `TooLarge`, `UnsupportedMediaType`, `InvalidRequest`."""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            headers.check_media_type(value, media_type)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("Send the body without a content encoding.")
        elif name == b"content-length" and _number(value) > limit:
            raise too_large(limit)
    body = bytearray()
    while True:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest.at("body", "was cut off")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise too_large(limit)
        is_last = not message.get("more_body", False)
        if is_last and not body:
            return chunk
        body += chunk
        if is_last:
            return bytes(body)


def too_large(limit: int) -> TooLarge:
    """Return the refusal of a body of more than `limit` bytes."""
    return TooLarge(f"A body here may have {limit:,} bytes.")


def _announced(request: HttpRequest, limit: int) -> int:
    """How many bytes the body is going to have; as many as it may have if it does not say."""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            return _number(value)
    return limit


def _number(content_length: bytes) -> int:
    """A Content-Length as a number, whatever the protocol has let through."""
    digits = content_length.lstrip(b"0")[:LENGTH_DIGITS_MAX]
    return int(digits) if digits.isdigit() else 0


@asynccontextmanager
async def large_body(request: HttpRequest, media_type: str, limit: int) -> AsyncIterator[bytes]:
    """Wait for room, read a body, and keep the room while it is looked into, and some time longer.

    A small one needs none. Raises `Overloaded` and what `read_bytes` raises.
    """
    size = _announced(request, limit)
    if size > limit:
        raise too_large(limit)
    if size <= SMALL:
        yield await read_bytes(request, media_type, limit)
        return
    key = header(request, b"authorization") or b""
    async with services_of(request).body_room.hold(key, size) as place:
        raw = await read_bytes(request, media_type, limit)
        place.looked_into_at = time.monotonic()
        yield raw


async def read_body(request: HttpRequest, model: type[B]) -> B:
    """Return the validated JSON body; the small ones on the shortest way, as most of them are."""
    if _announced(request, BODY_MAX) <= SMALL:
        return parse(model, await read_bytes(request, JSON, BODY_MAX))
    async with large_body(request, JSON, BODY_MAX) as raw:
        return parse(model, raw)


async def read_optional_body(request: HttpRequest, model: type[B]) -> B:
    """Return the validated JSON body; an empty one is an object without members."""
    has_body = any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in request.scope["headers"]
    )
    if not has_body:
        return model()
    async with large_body(request, JSON, BODY_MAX) as raw:
        return parse(model, raw) if raw.removeprefix(BOM).strip() else model()


async def read_batch(request: HttpRequest) -> list[ReserveBody | InvalidEntry]:
    """Return a batch's entries, each validated by itself."""
    async with large_body(request, JSON, LARGE_BODY_MAX) as raw:
        return await parse_batch(raw)


def seq_of(request: HttpRequest, seq: str | None) -> str:
    """Return the request's serial number, from its body or from its Idempotency-Key."""
    sent = header(request, b"idempotency-key")
    if sent is None:
        if seq is None:
            raise InvalidRequest.at("seq", "is missing: send it, or an Idempotency-Key header")
        return seq
    key = headers.idempotency_key(sent)
    if seq is not None and seq != key:
        raise InvalidRequest.at("Idempotency-Key", "differs from seq")
    return key


def check_source(caller: Caller, source: str | None) -> None:
    """Raise `Forbidden` when a body names another source than the credential's."""
    if source is not None and source != caller.source:
        raise Forbidden(f"source is not the key's own, {caller.source}: send that or none.")


def place(value: str, name: str) -> str:
    """Return a SKU or location from a path, percent-decoded. Raises `InvalidRequest`."""
    try:
        text = unquote_to_bytes(value.replace(UNDECODED, "%FF")).decode()
    except UnicodeDecodeError:
        raise InvalidRequest.at(name, "is not UTF-8") from None
    return path_name_at(name, text)


def identifier(value: str, kind: str = "reservation") -> UUID:
    """Return an id from a path. What is not an id names nothing: raises `NotFound`."""
    if UUID_FORM.fullmatch(value):
        return UUID(value)
    hint = " To find one by its seq, ask /v1/reservations?seq=…" if kind == "reservation" else ""
    raise NotFound(f"There is no such {kind}: its id would be a UUID.{hint}")


def precondition(request: HttpRequest, name: bytes) -> int | None:
    """Return the version that If-Match names; None when the header is absent."""
    sent = header_list(request, name)
    return None if sent is None else headers.version("If-Match", sent)
