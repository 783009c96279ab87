"""The parameters of operations: their readers, and their descriptions in the OpenAPI document."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

from service.domain.errors import InvalidRequest
from service.http.reading.query import Query
from service.input.bodies import CONTROL, MOMENT_MAX, NAME_MAX, TEXT, read_moment
from service.input.names import UUID_FORM, name_at, path_name_at

LIMIT_DEFAULT = 50
LIMIT_MAX = 500

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: its JSON schema, and the reader of a parameter's name and text."""

    schema: Schema
    read: Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A parameter of the query string, and its effect."""

    name: str
    description: str
    kind: Kind
    required: bool = False
    example: Any = None
    default: Any = None
    """The value that the operation gets when the parameter is absent."""
    found_in: ClassVar[str] = "query"

    @property
    def schema(self) -> Schema:
        """The JSON schema of its values."""
        return self.kind.schema


@dataclass(frozen=True, slots=True)
class HeaderParameter:
    """A header that an operation reads, and its effect; the handler gets it from its `Call`."""

    name: str
    description: str
    schema: Schema
    example: Any = None
    required: ClassVar[bool] = False
    found_in: ClassVar[str] = "header"


Parameter: TypeAlias = QueryParameter | HeaderParameter


def read_query(query_string: bytes, parameters: Sequence[QueryParameter]) -> dict[str, Any]:
    """Return the value of each query parameter, by its name.

    Raises `InvalidRequest` for a malformed parameter, and for one that is not among these.
    """
    query = Query(query_string)
    values = {each.name: query.take(each.name, each.kind.read) for each in parameters}
    query.end()
    for each in parameters:
        if values[each.name] is None:
            if each.required:
                hint = f"?{each.name}={each.example}"
                raise InvalidRequest.at(each.name, f"is missing: send it in the query, as {hint}")
            values[each.name] = each.default
    return values


def text_at(name: str, text: str, length_max: int = NAME_MAX) -> str:
    """Return a text without control characters. Raises `InvalidRequest`."""
    if len(text) > length_max:
        raise InvalidRequest.at(name, f"has more than {length_max:,} characters")
    if re.search(f"[{CONTROL}]", text):
        raise InvalidRequest.at(name, "must not have control characters")
    return text


def choice(*words: str) -> Kind:
    """Return the kind of value that is one of a few words."""

    def read(name: str, text: str) -> str:
        if text_at(name, text) not in words:
            raise InvalidRequest.at(name, f"must be one of {', '.join(words)}")
        return text

    return Kind({"type": "string", "enum": list(words)}, read)


def _read_name(name: str, text: str) -> str:
    return name_at(name, text_at(name, text))


def _read_place(name: str, text: str) -> str:
    return path_name_at(name, text_at(name, text))


def _read_prefix(name: str, text: str) -> str | None:
    return text_at(name, text) or None


def _read_flag(name: str, text: str) -> bool:
    return bool(_FLAG_WORDS.read(name, text) == "true")


def _read_moment(name: str, text: str) -> datetime:
    text_at(name, text, MOMENT_MAX)
    try:
        return read_moment(text.replace(" ", "+"))  # a plus in a query means a space
    except ValueError as error:
        raise InvalidRequest.at(name, str(error)) from None


def _read_identifier(name: str, text: str) -> UUID:
    if not UUID_FORM.fullmatch(text_at(name, text)):
        raise InvalidRequest.at(name, "must be a UUID")
    return UUID(text)


def _read_status(name: str, text: str) -> int:
    if not re.fullmatch("[1-5][0-9]{2}", text_at(name, text)):
        raise InvalidRequest.at(name, "must be a number from 100 to 599")
    return int(text)


def _read_limit(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text_at(name, text)) or not 1 <= int(text) <= LIMIT_MAX:
        raise InvalidRequest.at(name, f"must be a number from 1 to {LIMIT_MAX}")
    return int(text)


NAME_SCHEMA: Schema = {"type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": TEXT}
NAME = Kind(NAME_SCHEMA, _read_name)
"""A source, a seq or a job."""

STOCK_NAME = Kind(NAME_SCHEMA, _read_place)
"""A SKU or a location."""

PREFIX = Kind(
    {"type": "string", "maxLength": NAME_MAX, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}, _read_prefix
)
"""The first characters of a SKU."""

_FLAG_WORDS = choice("true", "false")
FLAG = Kind(_FLAG_WORDS.schema, _read_flag)
MOMENT = Kind({"type": "string", "format": "date-time"}, _read_moment)
"""A moment in ISO 8601 with its offset from UTC."""

IDENTIFIER = Kind({"type": "string", "format": "uuid"}, _read_identifier)
STATUS = Kind({"type": "integer", "minimum": 100, "maximum": 599}, _read_status)
"""The status of an answer."""

LIMIT = QueryParameter(
    "limit",
    "Items per page.",
    Kind(
        {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
        _read_limit,
    ),
    default=LIMIT_DEFAULT,
)

IDEMPOTENCY_KEY = HeaderParameter(
    "Idempotency-Key",
    "Replaces `seq`: bare, as here, or as a quoted string. If it differs from `seq`: 400.",
    {"type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": "^[!#-~]([ -~]*[!-~])?$"},
    example="order-1001",
)
IF_MATCH = HeaderParameter(
    "If-Match",
    "Only at the version that this ETag names.",
    {"type": "string", "pattern": '^(W/)?"[1-9][0-9]{0,18}"$'},
    example='"1"',
)
IF_NONE_MATCH = HeaderParameter(
    "If-None-Match",
    "An ETag that the client has; the answer is 304 if it is still current.",
    {"type": "string"},
)
CREATE_ONLY = HeaderParameter(
    "If-None-Match",
    "`*`: create the row.",
    {"type": "string", "pattern": r"^\*$"},
    example="*",
)
