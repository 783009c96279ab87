"""What comes in: request bodies, validated once, from their bytes."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.config import JsonDict

from service.errors import InvalidRequest

LINES_MAX = 1_000
QUANTITY_MAX = 1_000_000
HOLD_SECONDS_MAX = 604_800
UNITS_MAX = 1_000_000_000_000
BATCH_MAX = 1_000
BATCH_LINES_MAX = 10_000
VERSION_MAX = 2**63 - 1

Location: TypeAlias = tuple[int | str, ...]
"""Where in a body a value is: the names and indexes that lead there."""

TEXT = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
"""No control characters, no surrounding spaces."""


def _no_dots(value: str) -> str:
    if value in (".", ".."):
        raise ValueError("'.' and '..' can't be addressed in a path")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=TEXT)]
Place = Annotated[Name, AfterValidator(_no_dots)]
Printable = Annotated[str, StringConstraints(max_length=1_000, pattern=r"^[^\x00]*$")]
MetadataKey = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")]
MetadataValue = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")]
Quantity = Annotated[int, Field(ge=1, le=QUANTITY_MAX)]
HoldSeconds = Annotated[int, Field(ge=1, le=HOLD_SECONDS_MAX)]
Units = Annotated[int, Field(ge=0, le=UNITS_MAX)]


LINE_EXAMPLE: JsonDict = {"sku": "85123A", "location": "main", "quantity": 2}
RESERVE_EXAMPLE: JsonDict = {
    "seq": "order-1001",
    "lines": [LINE_EXAMPLE],
    "hold_seconds": 900,
    "metadata": {"cart": "c-77"},
}
REFUND_EXAMPLE: JsonDict = {
    "seq": "return-1001-1",
    "lines": [LINE_EXAMPLE],
    "reason": "damaged",
}


class Body(BaseModel):
    """A request's body: unknown members and other types than the named ones are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def members(self) -> int:
        """How many members the JSON had, here and below, if it named none of them twice."""
        return len(self.model_fields_set)

    def refuse_duplicate(self, location: Location) -> None:
        """Raise `InvalidRequest` for a member named twice: which one counts is anyone's guess."""
        raise _named_twice(location)


class LineBody(Body):
    """Units of a SKU at a location."""

    sku: Place = Field(examples=["85123A"])
    location: Place = Field("main", examples=["main"])
    quantity: Quantity = Field(examples=[2])


Lines = Annotated[list[LineBody], Field(min_length=1, max_length=LINES_MAX)]


class LinesBody(Body):
    """A body that may list lines."""

    lines: Lines | None = None

    def members(self) -> int:
        """Count the members of the lines too."""
        return super().members() + sum(len(line.model_fields_set) for line in self.lines or ())


class ReserveBody(LinesBody):
    """A reservation: with `hold_seconds` a hold, without it a sale."""

    model_config = ConfigDict(json_schema_extra={"examples": [RESERVE_EXAMPLE]})

    seq: Name | None = Field(None, examples=["order-1001"])
    source: Name | None = Field(None, examples=["shop-eu"])
    id: UUID | None = None
    lines: Lines
    hold_seconds: HoldSeconds | None = Field(None, examples=[900])
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = Field(
        default_factory=dict, examples=[{"cart": "c-77"}]
    )

    def members(self) -> int:
        """Count the metadata's members too."""
        return super().members() + len(self.metadata)


class InvalidEntry:
    """A batch's entry that is no reservation, with what is wrong about it."""

    def __init__(self, error: InvalidRequest) -> None:
        self.error = error


def _entry(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        return InvalidEntry(invalid(error))


class BatchBody(Body):
    """Many reservations, each of which stands for itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reservations": [RESERVE_EXAMPLE]}]})

    reservations: Annotated[
        list[Annotated[ReserveBody, WrapValidator(_entry)]],
        Field(min_length=1, max_length=BATCH_MAX),
    ]

    def members(self) -> int:
        """Count the entries' members too; -1 when there is an invalid one to look into."""
        if any(isinstance(entry, InvalidEntry) for entry in self.reservations):
            return -1
        return super().members() + sum(entry.members() for entry in self.reservations)

    def refuse_duplicate(self, location: Location) -> None:
        """Refuse only the entry that the member is in; like all else about it, it stands alone."""
        match location:
            case ("reservations", int(index), *rest) if rest:
                if not isinstance(self.reservations[index], InvalidEntry):
                    refusal = InvalidEntry(_named_twice(tuple(rest)))
                    self.reservations[index] = refusal  # type: ignore[call-overload] # see _entry
            case _:
                super().refuse_duplicate(location)


class ConfirmBody(LinesBody):
    """What is confirmed of a hold: all of it, or the given lines."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lines": [LINE_EXAMPLE]}]})


class NothingBody(Body):
    """No members at all."""


class ExtendBody(Body):
    """How long a hold goes on from now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hold_seconds": 900}]})

    hold_seconds: HoldSeconds = Field(examples=[900])


class RefundBody(LinesBody):
    """What is given back of a sale: all that is left, or the given lines."""

    model_config = ConfigDict(json_schema_extra={"examples": [REFUND_EXAMPLE]})

    seq: Name | None = Field(None, examples=["return-1001-1"])
    source: Name | None = Field(None, examples=["shop-eu"])
    reason: Printable | None = Field(None, examples=["damaged"])


class StockBody(Body):
    """A stock row as it shall be; what is left out is unset."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"available": 100, "low_stock_at": 10}]}
    )

    available: Units = Field(examples=[100])
    name: Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")] | None = Field(
        None, examples=["White hanging heart T-light holder"]
    )
    low_stock_at: Units | None = Field(None, examples=[10])


class AdjustBody(Body):
    """A correction of `available`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"seq": "count-7", "delta": -3, "reason": "broken"}]}
    )

    seq: Name | None = Field(None, examples=["count-2026-11-22-7"])
    source: Name | None = Field(None, examples=["shop-eu"])
    delta: Annotated[int, Field(ge=-UNITS_MAX, le=UNITS_MAX)] = Field(examples=[-3])
    reason: Annotated[Printable, StringConstraints(min_length=1)] = Field(examples=["broken"])
    expected_version: Annotated[int, Field(ge=1, le=VERSION_MAX)] | None = None


B = TypeVar("B", bound=Body)


def parse(model: type[B], raw: bytes) -> B:
    """Validate a body from its bytes. Raises `InvalidRequest` that names every wrong value."""
    try:
        try:
            body = model.model_validate_json(raw)
        except ValidationError as error:
            usable = _usable(raw)
            if usable == raw or error.errors(include_input=False)[0]["type"] != "json_invalid":
                raise
            raw, body = usable, model.model_validate_json(usable)
    except ValidationError as error:
        raise invalid(error) from None
    if raw.count(b":") != body.members():
        for location in _duplicates(raw):
            body.refuse_duplicate(location)
    return body


def _usable(raw: bytes) -> bytes:
    """Put other bad values in place of those for which the parser gives up the whole body.

    A NUL for half a character (a lone surrogate), and of a number the digits that the parser can
    take: validation refuses these as well, but it names them and, in a batch, only their entry.
    """
    raw = _ESCAPE.sub(lambda found: rb"\u0000" if found["lone"] else found[0], raw)
    return _LONG_NUMBER.sub(rb"\1", raw)


_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair, which is fine
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
_LONG_NUMBER = re.compile(rb"([0-9]{4000})[0-9]+")


def invalid(error: ValidationError) -> InvalidRequest:
    """Return the refusal that names each wrong value by its path and says what is wrong."""
    errors = [
        {"path": path(item["loc"]) or "body", "message": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return InvalidRequest(f"{errors[0]['path']}: {errors[0]['message']}", errors=errors)


def path(location: Location) -> str:
    """Return a value's path as a client would write it: lines[0].quantity."""
    written = ""
    for step in location:
        if isinstance(step, int):
            written += f"[{step}]"
        else:
            written += f".{step}" if written else step
    return written


class _Members(list[tuple[str, Any]]):
    """A JSON object with all its members, the repeated ones too."""


def _duplicates(raw: bytes) -> Iterator[Location]:
    """Find every member that an object names twice.

    There are more colons in the bytes than members in the model, which a colon in a string
    explains just as well; so this looks.
    """
    try:
        # Numbers stay as they are written: those of an invalid entry may be of any length.
        value = json.loads(raw, object_pairs_hook=_Members, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):  # only within a batch's invalid entry
        raise InvalidRequest.at("body", "can't be read") from None
    return _duplicates_in(value, ())


def _duplicates_in(value: Any, location: Location) -> Iterator[Location]:
    if isinstance(value, _Members):
        seen: set[str] = set()
        for name, member in value:
            if name in seen:
                yield (*location, name)
            seen.add(name)
            yield from _duplicates_in(member, (*location, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _duplicates_in(member, (*location, index))


def _named_twice(location: Location) -> InvalidRequest:
    return InvalidRequest.at(path(location), "is named twice")
