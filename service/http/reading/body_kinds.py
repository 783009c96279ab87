"""The kinds of bodies: each is limited in size and validated once; large ones wait for room."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from db.rows import Line
from service.domain.commands import merge_lines
from service.domain.errors import InvalidRequest, TooLarge, UnsupportedMediaType
from service.http.call import Call
from service.http.limits.body_room import SMALL
from service.input import headers
from service.input.bodies import BatchBody, Body, LineBody, ReserveBody
from service.input.json_text import BOM
from service.input.parsing import InvalidEntry, parse, parse_batch

B = TypeVar("B")
M = TypeVar("M", bound=Body)

JSON = "application/json"
CSV = "text/csv"
BODY_MAX = 1024 * 1024
LARGE_BODY_MAX = 4 * 1024 * 1024
LENGTH_DIGITS_MAX = 15
"""A Content-Length with more digits counts as too large and is not converted."""


@dataclass(frozen=True, slots=True)
class BodyKind(Generic[B]):
    """A kind of body: its reader, and its description in the OpenAPI document."""

    read: Callable[[Call[Any]], Awaitable[B]]
    media_type: str = JSON
    model: type[Body] | None = None
    is_required: bool = True
    example: Any = None


def json_body(model: type[M]) -> BodyKind[M]:
    """Return the kind of body that is required."""
    return BodyKind(partial(_read_json, model), model=model)


def optional_json_body(model: type[M]) -> BodyKind[M]:
    """Return the kind of body that may be absent, which counts as an object without members."""
    return BodyKind(partial(_read_optional_json, model), model=model, is_required=False)


def batch_body() -> BodyKind[list[ReserveBody | InvalidEntry]]:
    """Return the body of a batch, whose entries are validated one by one."""
    return BodyKind(_read_batch, model=BatchBody)


def csv_body(example: str) -> BodyKind[None]:
    """Return the kind of body that its handler reads by itself.

    It does so with `large_body`, to hold room in memory for the file until its rows are written.
    """
    return BodyKind(_leave, media_type=CSV, example=example)


def merged_lines(lines: list[LineBody]) -> tuple[Line, ...]:
    """Return one line for each SKU and location of a body, with the sum of its quantities."""
    return merge_lines([(line.sku, line.location, line.quantity) for line in lines])


async def _read_json(model: type[M], call: Call[Any]) -> M:
    if _announced(call, BODY_MAX) <= SMALL:  # the shortest way, which most requests take
        return parse(model, await read_bytes(call, JSON, BODY_MAX))
    async with large_body(call, JSON, BODY_MAX) as raw:
        return parse(model, raw)


async def _read_optional_json(model: type[M], call: Call[Any]) -> M:
    has_body = any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in call.scope["headers"]
    )
    if not has_body:
        return model()
    async with large_body(call, JSON, BODY_MAX) as raw:
        return parse(model, raw) if raw.removeprefix(BOM).strip() else model()


async def _read_batch(call: Call[Any]) -> list[ReserveBody | InvalidEntry]:
    async with large_body(call, JSON, LARGE_BODY_MAX) as raw:
        return await parse_batch(raw)


async def _leave(call: Call[Any]) -> None:
    """Leave the body to the handler."""


async def read_bytes(call: Call[Any], media_type: str, limit: int) -> bytes:
    """Return the body. Raises `TooLarge`, `UnsupportedMediaType`, `InvalidRequest`."""
    for name, value in call.scope["headers"]:
        if name == b"content-type":
            headers.check_media_type(value, media_type)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("Send the body without a content encoding.")
        elif name == b"content-length" and _number(value) > limit:
            raise _too_large(limit)
    body = bytearray()
    while True:
        message: Any = await call.receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest.at("body", "was cut off")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        is_last = not message.get("more_body", False)
        if is_last and not body:
            return chunk
        body += chunk
        if is_last:
            return bytes(body)


@asynccontextmanager
async def large_body(call: Call[Any], media_type: str, limit: int) -> AsyncIterator[bytes]:
    """Wait for room, read a body, and hold the room until the body is processed.

    A small body needs no room. Raises `Overloaded` and the errors of `read_bytes`.
    """
    size = _announced(call, limit)
    if size > limit:
        raise _too_large(limit)
    if size <= SMALL:
        yield await read_bytes(call, media_type, limit)
        return
    key = call.credential.id.bytes  # a source may have many tokens
    async with call.worker.body_room.hold(key, size) as share:
        raw = await read_bytes(call, media_type, limit)
        share.arrived_at = time.monotonic()
        yield raw


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is longer than the {limit:,} bytes that are allowed here.")


def _announced(call: Call[Any], limit: int) -> int:
    """The number of bytes that the body announces; the largest allowed one if it announces none."""
    for name, value in call.scope["headers"]:
        if name == b"content-length":
            return _number(value)
    return limit


def _number(content_length: bytes) -> int:
    """A Content-Length as a number; the protocol may have let any bytes through."""
    digits = content_length.lstrip(b"0")[:LENGTH_DIGITS_MAX]
    return int(digits) if digits.isdigit() else 0
