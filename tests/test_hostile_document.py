"""Every parameter and every member of a body in the OpenAPI document gets hostile values.

The values follow from the schemas of the document, so a new operation is tested without a change
here. A parameter or member for which no value is refused fails the suite.
"""

import copy
import json
import uuid
from collections.abc import Iterator
from functools import cache
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import jsonschema
import pytest

from db.models import Base
from service.http import openapi
from service.http.app import create_app
from service.settings import Settings

DOCUMENT = openapi.document(create_app(Settings(database_url="postgresql://localhost/none")))
SEGMENTS = {"sku": "A", "location": "main", "source": "shop-eu", "code": "not-found"}
"""Segments of paths; all others are ids."""

FREE = {("header", "If-None-Match"), ("query", "sku_prefix")}
"""Parameters that may be any text, or almost any."""

NO_SUCH_TEXT = {"cursor", "code"}
"""Parameters that only the service's own texts are right for, whatever their schema allows."""

NOT_STATED = {"access_log", "page_session"}
"""Tables that record requests: a refused request may add a row, and changes nothing else."""

OPERATIONS = [
    (method.upper(), path, described)
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
]
IDS = [described["operationId"] for _, _, described in OPERATIONS]


def resolved(schema):
    """A schema without references and without the alternative null."""
    while "$ref" in schema or "anyOf" in schema:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            schema = {**DOCUMENT["components"]["schemas"][name], **without(schema, "$ref")}
        else:
            (one,) = [each for each in schema["anyOf"] if each.get("type") != "null"]
            schema = {**one, **without(schema, "anyOf")}
    return schema


def without(schema, name):
    return {key: value for key, value in schema.items() if key != name}


@cache
def validator(written):
    """A validator of a schema of the document, written as JSON."""
    schema = {**json.loads(written), "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema)


def is_valid(schema, value):
    return validator(json.dumps(schema)).is_valid(value)


# Values


TEXTS = [
    "", " ", "\x00", "a\x00b", "a\nb", "a\r\nX-Evil: 1", "\t", "\x1b[31m", "\x7f", "\x85x",
    " x", "x ", "\u00a0x", "x\u2003", "\u200bx", "x\u200b", "\u202ex", "x\ufeff", "\u2066x",
    ".", "..", "../..", "%00", "%2e%2e", "x" * 129, "é" * 257, "\U0001f6d2" * 1001, "x" * 5000,
    "null", "true", "1", "-1", "-0", "0", "1.0", "1e400", "0x1", "1_000", " 1", "+1", "NaN",
    "9" * 30, "2026-13-01T00:00:00Z", "2026-11-22T19:20:00", "0000-00-00", "x" * 36, "'; --",
    "<script>alert(1)</script>", "${jndi:ldap://x}", "{{7*7}}", "http://[", '"', "\\",
]  # fmt: skip
HALVES = ['"\\ud800"', '"a\\udfffb"', '"\\ud800\\ud800\\udc00"']
"""Lone surrogates: valid in JSON's grammar, but not text."""

DEEP = "[" * 17 + "]" * 17
LONG = "1" * 5000
RAW = [
    *map(json.dumps, TEXTS), *HALVES, "null", "true", "false", "[]", "{}", "[null]", '[""]', "0",
    "-0", "-1", "1.0", "1e0", "0.5", "1e400", "-1e400", "2147483648", "9223372036854775808",
    LONG, f"[[{LONG}]]", f'{{"a":[{LONG}]}}', DEEP, '{"a":1,"a":2}', '{"\\u0000":""}',
    "[{}]", '["a","a"]', '["x","\\ud800"]',
]  # fmt: skip
"""JSON values, as they are written."""

HEADERS = [
    b"\x00", b"a\x00b", b"\x7f", b"\xff", b"\xc3", b"\xed\xa0\x80", b'"', b'"a', b'"\\"', b"*, *",
    b"27", b'"027"', b'"0"', b'"-1"', b'"1", "2"', b'w/"1"', b'"\xb2"', b'"' + b"9" * 20 + b'"',
    b"\xc2\xa0x", b"\xe2\x80\x8bx", b"x\xe2\x80\x8b", b"x" * 129, b"x" * 20_000, b"a,b\x01",
]  # fmt: skip

SEGMENTS_OF_PATHS = [
    *(quote(text, safe="").replace(".", "%2E") for text in TEXTS if len(text) < 2000),
    *(quote_from_bytes(raw) for raw in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80a")),
    "%", "%zz", "%u0041", "%252e", "..%2f..", "x" * 7000,
]  # fmt: skip


# Bodies


def body_of(described):
    content = described.get("requestBody", {}).get("content", {})
    return content.get("application/json")


def members(schema, value, steps=()) -> Iterator:
    """The path and schema of each member of a body, also within lists and objects."""
    schema = resolved(schema)
    for name, inner in schema.get("properties", {}).items():
        yield (*steps, name), inner
        held = value.get(name) if isinstance(value, dict) else None
        yield from members(inner, held, (*steps, name))
    if isinstance(value, list) and value and "items" in schema:
        yield (*steps, 0), schema["items"]
        yield from members(schema["items"], value[0], (*steps, 0))
    for inner in schema.get("patternProperties", {}).values():
        yield (*steps, "a"), inner


def named(steps):
    """The path of a member as an error names it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]


MARK = "@hostile@"


def changed(example, steps, raw):
    """The body with a value as it is written in place of a member."""
    body = copy.deepcopy(example)
    place = body
    for step in steps[:-1]:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[steps[-1]] = MARK
    return json.dumps(body).replace(json.dumps(MARK), raw)


def is_refused(schema, raw):
    """True when the schema does not allow a JSON value, or when no schema can express why."""
    if raw in HALVES or "\\ud800" in raw or raw == DEEP or raw == '{"a":1,"a":2}':
        return True
    return not is_valid(schema, json.loads(raw, parse_int=lambda digits: int(digits[:40])))


BODIES = [
    (method, path, described, steps, schema)
    for method, path, described in OPERATIONS
    if body_of(described) is not None
    for steps, schema in members(body_of(described)["schema"], body_of(described)["example"])
]
BY_MEMBER = pytest.mark.parametrize(
    ("method", "path", "described", "steps", "schema"),
    BODIES,
    ids=[f"{described['operationId']} {named(steps)}" for _, _, described, steps, _ in BODIES],
)


def test_the_members_of_nested_objects_are_found():
    found = {named(steps) for _, path, _, steps, _ in BODIES if path == "/v1/reservations"}
    assert {"seq", "lines", "lines[0]", "lines[0].sku", "metadata", "metadata.a"} <= found


@BY_MEMBER
def test_every_member_has_hostile_values(method, path, described, steps, schema):
    assert sum(is_refused(schema, raw) for raw in RAW) > 10


@BY_MEMBER
async def test_a_hostile_member_is_400_and_named(seeded, method, path, described, steps, schema):
    example = body_of(described)["example"]
    is_batch = path.endswith("/batch")
    is_entry = is_batch and len(steps) < 3  # its error names what the entry lacks
    for raw in RAW:
        body = changed(example, steps, raw)
        answer = await seeded.ask(method, path, described, content=body.encode())
        if not is_refused(schema, raw):
            assert answer.status_code < 500, (raw[:80], answer.text)
            continue
        problem = answer.json()
        if is_batch and answer.status_code == 200:  # the entries of a batch fail one by one
            problem = problem["results"][0]["problem"]
        assert problem["status"] == 400, (raw[:80], answer.text)
        paths = [each["path"] for each in problem["errors"]]
        expected = named(steps).removeprefix("reservations[0].") if is_batch else named(steps)
        assert any(
            found.startswith((expected, named(steps))) or found == "body" or is_entry
            for found in paths
        ), (raw[:80], paths)


WHOLE = [
    b"", b" ", b"null", b"[]", b"1", b'"x"', b"{", b"{]", b'{"a":1,}', b"{'a':1}", b"NaN", b"\x00",
    b"\xff\xfe", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf{}", b'{"\xc3":1}', b'{"x":1e400}',
    b'{"x":NaN}', b'{"x":01}', b"[" * 100_000, b'{"a":' * 50_000, b'{"unknown":1}',
    b'{"a":"\x01"}', "{}".encode("utf-16"), b"{}{}", b"{} x",
]  # fmt: skip
OPTIONAL = {b"", b" ", b"\xef\xbb\xbf"}
"""Bodies that count as absent where a body is optional."""


def test_every_operation_with_a_body_has_an_example_of_it():
    with_json = [described for _, _, described in OPERATIONS if body_of(described)]
    assert len(with_json) > 6
    for described in with_json:
        assert is_valid(body_of(described)["schema"], body_of(described)["example"])


@pytest.mark.parametrize(("method", "path", "described"), OPERATIONS, ids=IDS)
async def test_a_body_that_is_no_such_object_is_400_and_stores_nothing(
    seeded, method, path, described
):
    if body_of(described) is None:
        return
    before = await seeded.counts()
    example = json.dumps(body_of(described)["example"])
    first = next(iter(body_of(described)["example"]), None)
    twice = f'{{"{first}":null,{example[1:]}'.encode()
    for raw in [
        *WHOLE,
        example.encode() + b"x",
        example.encode("utf-16"),
        *([twice] if first else []),
    ]:
        answer = await seeded.ask(method, path, described, content=raw)
        if raw in OPTIONAL and not described["requestBody"].get("required", False):
            assert answer.status_code < 500
            continue
        assert answer.status_code == 400, (raw[:40], answer.text)
        assert all(each["path"] for each in answer.json()["errors"])
    assert await seeded.counts() == before


# Parameters


PARAMETERS = [
    (method, path, described, parameter)
    for method, path, described in OPERATIONS
    for parameter in described["parameters"]
]
BY_PARAMETER = pytest.mark.parametrize(
    ("method", "path", "described", "parameter"),
    PARAMETERS,
    ids=[
        f"{described['operationId']} {one['in']} {one['name']}"
        for _, _, described, one in PARAMETERS
    ],
)


def allows(parameter, text):
    """True when a parameter's schema allows a text."""
    schema = resolved(parameter["schema"])
    if parameter["name"] in NO_SUCH_TEXT or schema.get("format") in ("date-time", "uuid"):
        return False
    if schema.get("type") == "integer":
        return text.isascii() and text.isdigit() and is_valid(schema, int(text[:30]))
    if schema.get("type") == "boolean":
        return text in ("true", "false")
    return is_valid(schema, text)


def text_of(segment):
    """The text of a segment of a path; None if it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None


def values_of(parameter):
    """Hostile values of a parameter: those that its schema refuses, and those that it allows."""
    if parameter["in"] == "header":
        values = [(raw, raw.decode("latin-1")) for raw in HEADERS]
    elif parameter["in"] == "path":
        values = [(segment, text_of(segment)) for segment in SEGMENTS_OF_PATHS]
    else:
        values = [(text, text) for text in TEXTS]
    is_allowed = {value: text is not None and allows(parameter, text) for value, text in values}
    return (
        [value for value in is_allowed if not is_allowed[value]],
        [value for value in is_allowed if is_allowed[value]],
    )


@BY_PARAMETER
def test_every_parameter_has_hostile_values(method, path, described, parameter):
    refused, _ = values_of(parameter)
    if (parameter["in"], parameter["name"]) not in FREE:
        assert len(refused) > 10


@BY_PARAMETER
async def test_a_hostile_parameter_is_refused_and_stores_nothing(
    seeded, method, path, described, parameter
):
    name, place = parameter["name"], parameter["in"]
    refused, allowed = values_of(parameter)
    before = await seeded.counts()
    for value in refused:
        answer = await seeded.ask(method, path, described, **{place: {name: value}})
        shown = (value[:60], answer.status_code, answer.text[:300])
        assert 400 <= answer.status_code < 500, shown
        assert answer.headers["Content-Type"] == "application/problem+json", shown
        if answer.status_code == 400:
            assert [each["path"] for each in answer.json()["errors"]] == [name], shown
    assert await seeded.counts() == before
    for value in allowed:
        answer = await seeded.ask(method, path, described, **{place: {name: value}})
        assert answer.status_code < 500, (value[:60], answer.text[:300])


class Seeded:
    """A service with a row of stock and an admin key."""

    def __init__(self, service):
        self.service = service

    async def ask(self, method, address, described, *, content=None, **given):
        """Send a request that is valid except for its content and the given parameters."""
        segments, header, query = (given.get(place, {}) for place in ("path", "header", "query"))
        for parameter in described["parameters"]:
            if parameter["in"] == "path":
                own = SEGMENTS.get(parameter["name"], str(uuid.UUID(int=1)))
                sent = segments.get(parameter["name"], own)
                address = address.replace(f"{{{parameter['name']}}}", sent)
        required = {
            each["name"]: "monday"
            for each in described["parameters"]
            if each["in"] == "query" and each.get("required")
        }
        asked = {**required, **query}
        if asked:
            address += "?" + "&".join(f"{name}={quote(text)}" for name, text in asked.items())
        media = next(iter(described.get("requestBody", {}).get("content", {})), None)
        if content is None and media is not None:
            example = described["requestBody"]["content"][media]["example"]
            content = example.encode() if isinstance(example, str) else json.dumps(example).encode()
        headers = {"Content-Type": media} if media else {}
        raw = [(name.encode(), text.encode()) for name, text in headers.items()]
        raw += [(name.encode(), value) for name, value in header.items()]
        key = self.service.client.headers["Authorization"].encode()
        return await self.service.client.request(
            method, address, content=content, headers=[(b"Authorization", key), *raw]
        )

    async def counts(self):
        """The number of rows of each table, except those that record requests."""
        tables = [each for each in Base.metadata.tables if each not in NOT_STATED]
        counted = ", ".join(f"(SELECT count(*) FROM {each}) AS {each}" for each in tables)
        return dict((await self.service.sql(f"SELECT {counted}"))[0])


@pytest.fixture
async def seeded(service):
    await service.stock("A", 1_000_000)
    return Seeded(service)
