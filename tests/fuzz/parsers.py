"""Every parser of bytes or texts that clients send, with valid inputs to begin with.

`test_parsers.py` fails if a function of `service/input/headers.py`, a parameter of an operation or
the model of a body is missing here.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from db.vocabulary import Scope
from service.domain.commands import Caller
from service.domain.errors import (
    Forbidden,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from service.http.app import create_app
from service.http.call import Call, identifier
from service.http.compression import accepts_gzip
from service.http.operation import operations
from service.http.page.forms import read_form
from service.http.page.sessions import Session, is_own_origin
from service.http.reading import cursors
from service.http.reading.query import Query
from service.http.request_id import request_id_of
from service.input import headers, names
from service.input.bodies import BatchBody, Body
from service.input.hosts import AllowedHosts
from service.input.import_file import lines_of
from service.input.json_text import MalformedError, checked, count_members, is_too_deep
from service.input.parsing import parse, parse_batch
from service.input.proxies import TrustedProxies
from service.settings import Settings

HEADER_MAX = 64 * 1024
"""Bytes: more than the server accepts in all headers of a request."""
BODY_SIZE = 300 * 1024
"""Bytes: more than a body that is read in one step, whatever it contains."""


@dataclass(frozen=True)
class Parser:
    """A function from bytes to a value, and the errors that it may raise in place of one."""

    read: Callable[[bytes], Any]
    seeds: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = (InvalidRequest,)
    size: int = HEADER_MAX
    """The size of the longest input in bytes."""


OPERATIONS = tuple(operations(create_app(Settings(database_url="postgresql://localhost/none"))))
BODIES = frozenset(
    each.body.model
    for each in OPERATIONS
    if each.body is not None and each.body.model not in (None, BatchBody)
)
"""The models of all bodies that operations read; a batch is read entry by entry instead."""

ACCEPTS = (
    b"application/json", b"text/html, application/*;q=0.5, */*;q=0", b"application/json;q=0.001",
    b"text/html;level=1;q=0.7,application/json; charset=utf-8;q=1.000",
)  # fmt: skip
TAGS = (b'"1"', b'W/"27"', b'"1", W/"9223372036854775807"', b"*")
KEYS = (b"order-1001", b'"order-1001"', b'"a\\"b\\\\c"', "\u00fc\U0001f6d2".encode())
COOKIES = (b"holdfast=abc-_1", b"a=b; holdfast=x; c=d", b"holdfast=abc;__Host-holdfast=def")
ID = "8b1c7f9e-2f64-4a52-9d3b-6a4f6f1e7c11"
NAMES = (b"85123A", "Ünïcode \U0001f6d2".encode(), b"a%2Fb", b"..a", b"x" * 128)
TYPES = (b"application/json", b'Application/JSON; charset="UTF-8"', b"text/csv;header=present")

CSV = (
    b"A,main,5,x\nB,north,7\n",
    b'\xef\xbb\xbfsku,location,available,name\r\n"A ""1""",main,5,"two\nlines"\r\n',
    b"available,sku\n1000000000000,85123A\n\n0,B\n",
)
QUERIES = (
    b"limit=20&cursor=WzEsIkEiLCJtYWluIl0", b"sku=A%2FB&state=held&created_after=2026-11-22T19:20Z",
    b"low=true&sku_prefix=White+", b"job=monday",
)  # fmt: skip
FORMS = (
    b"token=a.b.c&sku=85123A&quantity=2&hold_seconds=900",
    b"token=x&reservation=order-1001&reason=two+words&sku=%C3%BC",
)

PROXIES = TrustedProxies("127.0.0.1,10.0.0.0/8")
SESSION = Session("secret", Caller("shop", every_source=False), frozenset({Scope.RESERVE}))
TOKEN = SESSION.issue_token("reserve", "refund").encode()


def text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Return a reader of bytes from a reader of text that was decoded before."""
    return lambda raw: read(raw.decode("utf-8", "replace"))


def form(raw: bytes) -> Any:
    """Read the body of a form."""
    return asyncio.run(read_form(call_with(raw, "application/x-www-form-urlencoded")))


def call_with(raw: bytes, content_type: str) -> Call[Any]:
    """A request with a body."""
    sent = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(raw))]

    async def receive() -> Any:
        return {"type": "http.request", "body": raw, "more_body": False}

    app = SimpleNamespace(worker=None)
    return Call({"headers": sent, "litestar_app": app}, receive)  # type: ignore[typeddict-item]


def stock_name(raw: bytes) -> str:
    """Read a SKU from the raw path of a request."""
    call = call_with(b"", "")
    call.scope["path_params"] = {"sku": raw.decode("utf-8", "replace")}
    return call.stock_name("sku")


def query_of_nothing(raw: bytes) -> None:
    """Read the query of an operation without parameters."""
    Query(raw).end()


def seeds_of(model: type[Body]) -> tuple[bytes, ...]:
    """The example of a body in two spellings, and an empty body."""
    example = model.example
    return (json.dumps(example).encode(), json.dumps(example, indent=1).encode(), b"{}")


def parameters() -> Iterator[tuple[str, Parser]]:
    """The query parameters of all operations, each once."""
    for operation in OPERATIONS:
        for each in operation.query:
            enum = each.schema.get("enum", ())
            others = (each.schema.get("minimum", 1), "main", "2026-11-22T19:20:00+01:00", ID)
            shown = [each.example, each.default, *enum, *others]
            seeds = tuple(str(value).encode() for value in shown if value is not None)
            yield (
                f"query parameter {each.name} of {operation.id}",
                Parser(text(partial(each.kind.read, each.name)), seeds, size=4096),
            )


PARSERS: dict[str, Parser] = {
    "check_acceptable": Parser(headers.check_acceptable, ACCEPTS, (NotAcceptable, InvalidRequest)),
    "quality": Parser(lambda raw: headers.quality(raw, "application/json"), ACCEPTS, ()),
    "check_media_type": Parser(
        lambda raw: headers.check_media_type(raw, "application/json"),
        TYPES,
        (UnsupportedMediaType,),
    ),
    "idempotency_key": Parser(headers.idempotency_key, KEYS),
    "version": Parser(partial(headers.version, "If-Match"), TAGS),
    "matches": Parser(lambda raw: headers.matches(raw, b'"27"'), TAGS, ()),
    "cookie": Parser(lambda raw: headers.cookie(raw, b"holdfast"), COOKIES, ()),
    "accepts_gzip": Parser(
        lambda raw: accepts_gzip([(b"accept-encoding", raw)]),
        (b"gzip, deflate;q=0.5, br", b"identity;q=1, *;q=0", b"GZIP;q=0.000"),
        (),
    ),
    "is_own_origin": Parser(
        lambda raw: is_own_origin(raw, b"shop.example:8000"),
        (b"https://shop.example:8000", b"http://[::1]:8000", b"null"),
        (),
    ),
    "the address of a client": Parser(
        partial(PROXIES.client_of, "127.0.0.1"),
        (b"192.0.2.1, 10.0.0.7", b"[2001:db8::1]:4711,10.1.2.3:80", b"unknown, 192.0.2.1"),
        (),
    ),
    "a host": Parser(
        AllowedHosts("shop.example,*.example.com,[::1]").allows,
        (b"shop.example:8000", b"a.b.example.com.", b"[::1]:80"),
        (),
    ),
    "the id of a request": Parser(
        lambda raw: request_id_of([(b"x-request-id", raw)]), (b"b7ad6b71-2/3@x", b"1"), ()
    ),
    "a query string": Parser(Query, QUERIES),
    "a query without parameters": Parser(query_of_nothing, (b"", *QUERIES)),
    "a SKU in a path": Parser(stock_name, NAMES),
    "a name": Parser(text(partial(names.name_at, "seq")), NAMES),
    "an id in a path": Parser(
        text(lambda sent: identifier(sent, "reservation")),
        (ID.encode(),),
        (NotFound,),
    ),
    "a CSV file": Parser(lambda raw: list(lines_of(raw)), CSV, ()),
    "a form": Parser(form, FORMS, (InvalidRequest, TooLarge), BODY_SIZE),
    "a token of a form": Parser(
        text(partial(SESSION.read_token, "refund")), (TOKEN,), (Forbidden,)
    ),
    "JSON": Parser(checked, (b'{"a":[1,"\\ud83d\\uded2"]}', b"[]"), (MalformedError,), BODY_SIZE),
    "the depth of JSON": Parser(
        lambda raw: is_too_deep(checked(raw)),
        (b'{"a":[1,"]"]}', b"[]"),
        (MalformedError,),
        BODY_SIZE,
    ),
    "the members of JSON": Parser(
        lambda raw: count_members(checked(raw)),
        (b'{"a":{"b":":"}}', b"[]"),
        (MalformedError,),
        BODY_SIZE,
    ),
    "a batch": Parser(
        lambda raw: asyncio.run(parse_batch(raw)),
        seeds_of(BatchBody),
        size=BODY_SIZE,
    ),
    **{
        f"cursor of {name}": Parser(
            text(partial(cursors.read_cursor, order, "cursor")),
            (cursors.cursor_after(order.example).encode(),),
            size=4096,
        )
        for name, order in vars(cursors).items()
        if isinstance(order, cursors.ListOrder)
    },
    **{
        f"body {model.__name__}": Parser(partial(parse, model), seeds_of(model), size=BODY_SIZE)
        for model in sorted(BODIES, key=lambda model: model.__name__)
    },
    **dict(parameters()),
}


def outcome(parser: Parser, raw: bytes) -> Any:
    """Return the value that a parser reads, or its error. Any other error ends the test."""
    try:
        return parser.read(raw)
    except parser.errors as error:
        return error
