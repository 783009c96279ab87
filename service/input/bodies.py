"""The models of request bodies, validated from their bytes by `service.input.parsing`.

They are also the request schemas of the OpenAPI document, which shows each body's `example`.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import CoreSchema

from db.vocabulary import Scope
from service.domain.stock import AVAILABLE_MAX

LINES_MAX = 1_000
QUANTITY_MAX = 1_000_000
HOLD_SECONDS_MAX = 604_800
BATCH_MAX = 1_000
BATCH_LINES_MAX = 10_000
METADATA_MAX = 16
OPEN_HOLDS_MAX = 1_000_000_000
RATE_MAX = 1_000_000
VERSION_MAX = 2**63 - 1
LABEL_MAX = 128
MOMENT_MAX = 64
GRACE_SECONDS = 86_400
"""The time for which a key works after its rotation, unless the request names another."""

GRACE_SECONDS_MAX = 2_592_000

NAME_MAX = 128
"""Characters of a SKU, location, source or seq."""

CONTROL = r"\x00-\x1f\x7f-\x9f"
INVISIBLE = (  # characters without a visible form, except those that can end an emoji
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
)
AT_NO_END = rf"\s{CONTROL}{INVISIBLE}"
AT_NO_BEGINNING = rf"{AT_NO_END}\ufe00-\ufe0f"  # these select a variant of the character before
TEXT = rf"^[^{AT_NO_BEGINNING}]([^{CONTROL}]*[^{AT_NO_END}])?$"
"""A text without control characters, and without spaces or invisible characters at its ends."""

NO_NUL = r"^[^\x00]*$"
"""A text without NUL, which PostgreSQL refuses."""


def _no_dots(value: str) -> str:
    if value in (".", ".."):
        raise ValueError("must not be . or .., which can't be addressed in a path")
    return value


def read_moment(value: object) -> datetime:
    """Return the moment that a text names with its offset from UTC. Raises `ValueError`."""
    try:
        if isinstance(value, str) and len(value) <= MOMENT_MAX:
            moment = datetime.fromisoformat(value)
            if moment.utcoffset() is not None:
                return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a moment like 2026-11-22T19:20:00Z")


def _each_once(scopes: list[Scope]) -> list[Scope]:
    if len(set(scopes)) < len(scopes):
        raise ValueError("must name each scope once")
    return scopes


Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_MAX, pattern=TEXT)]
NO_DOTS: JsonDict = {"not": {"enum": [".", ".."]}}
INT64: JsonDict = {"format": "int64"}
PathName = Annotated[Name, AfterValidator(_no_dots), Field(json_schema_extra=NO_DOTS)]
Printable = Annotated[str, StringConstraints(max_length=1_000, pattern=NO_NUL)]
StockName = Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)]
Label = Annotated[str, StringConstraints(max_length=LABEL_MAX, pattern=NO_NUL)]
Moment = Annotated[
    datetime,
    BeforeValidator(read_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": MOMENT_MAX}),
]
Scopes = Annotated[
    list[Scope],
    Field(
        min_length=1, max_length=len(Scope), fail_fast=True, json_schema_extra={"uniqueItems": True}
    ),
    AfterValidator(_each_once),
]
GraceSeconds = Annotated[int, Field(ge=0, le=GRACE_SECONDS_MAX)]
MetadataKey = Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)]
Quantity = Annotated[int, Field(ge=1, le=QUANTITY_MAX)]
HoldSeconds = Annotated[int, Field(ge=1, le=HOLD_SECONDS_MAX)]
Units = Annotated[int, Field(ge=0, le=AVAILABLE_MAX, json_schema_extra=INT64)]
HoldsMax = Annotated[int, Field(ge=0, le=OPEN_HOLDS_MAX)]
UnitsMax = Annotated[int, Field(ge=0, le=AVAILABLE_MAX, json_schema_extra=INT64)]
Rate = Annotated[int, Field(ge=1, le=RATE_MAX)]
RowVersion = Annotated[int, Field(ge=1, le=VERSION_MAX, json_schema_extra=INT64)]


CHOSEN_ID = (
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[457][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
)
ChosenId = Annotated[UUID, Field(json_schema_extra={"pattern": CHOSEN_ID})]

SEQ = "The client's serial number for this request. Required, unless `Idempotency-Key` is sent."
SOURCE = "The calling system: the key's own source, or absent."

LINE_EXAMPLE: JsonDict = {"sku": "85123A", "location": "main", "quantity": 2}
RESERVE_EXAMPLE: JsonDict = {
    "seq": "order-1001",
    "lines": [LINE_EXAMPLE],
    "hold_seconds": 900,
    "metadata": {"cart": "c-77"},
}


class Body(BaseModel):
    """A request's body. Values of other types are refused, and so are unknown members.

    Pydantic does not refuse the unknown members itself, because it makes an error of each of a
    million of them. `service.input.parsing` compares `members` with the number of members in the
    JSON, and looks for the first unknown ones only if the two differ.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    example: ClassVar[Any]
    """A valid body, for the OpenAPI document."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonDict:
        """State in the schema, too, that unknown members are refused."""
        schema = handler(core_schema)
        handler.resolve_ref_schema(schema)["additionalProperties"] = False
        return schema

    def members(self) -> int:
        """Return the number of members that the JSON had if it has no unknown or repeated ones."""
        return len(self.model_fields_set)


class LineBody(Body):
    """Units of a SKU at a location."""

    example: ClassVar[Any] = LINE_EXAMPLE

    sku: PathName = Field(description="The article.", examples=["85123A"])
    location: PathName = Field(
        "main", description="The place; `main` if it is absent.", examples=["main"]
    )
    quantity: Quantity = Field(description="The number of units.", examples=[2])


Lines = Annotated[list[LineBody], Field(min_length=1, max_length=LINES_MAX, fail_fast=True)]


class LinesBody(Body):
    """A body that may list lines."""

    lines: Lines | None = None

    def members(self) -> int:
        """Count the members of the lines too."""
        return super().members() + sum(len(line.model_fields_set) for line in self.lines or ())


class ReserveBody(LinesBody):
    """A reservation: with `hold_seconds` it is a hold, without it a sale."""

    example: ClassVar[Any] = RESERVE_EXAMPLE

    seq: Name | None = Field(None, description=SEQ, examples=["order-1001"])
    source: Name | None = Field(None, description=SOURCE, examples=["shop-eu"])
    id: ChosenId | None = Field(
        None,
        description="A UUID of version 4 or 7, or the one that is derived from source and seq."
        " If it is absent, the reservation gets the derived one.",
    )
    lines: Lines = Field(
        description="The units to take, all or none. Lines with the same SKU and location are"
        " added up."
    )
    hold_seconds: HoldSeconds | None = Field(
        None,
        description="The time until the hold expires. If it is absent, the units are sold at once.",
        examples=[900],
    )
    metadata: Annotated[
        dict[MetadataKey, MetadataValue], Field(max_length=METADATA_MAX, fail_fast=True)
    ] = Field(
        default_factory=dict,
        description="Texts of the client's own, stored and shown as they are.",
        examples=[{"cart": "c-77"}],
    )

    def members(self) -> int:
        """Count the metadata's members too."""
        return super().members() + len(self.metadata)


class BatchBody(Body):
    """Many reservations, each of which succeeds or fails by itself."""

    example: ClassVar[Any] = {"reservations": [RESERVE_EXAMPLE]}

    reservations: Annotated[
        list[ReserveBody], Field(min_length=1, max_length=BATCH_MAX, fail_fast=True)
    ] = Field(description="They are carried out in this order. Each one needs a `seq`.")


class ConfirmBody(LinesBody):
    """The part of a hold that is sold: the given lines, or everything."""

    example: ClassVar[Any] = {"lines": [LINE_EXAMPLE]}

    lines: Lines | None = Field(
        None, description="The units to sell; everything if it is absent. The rest is released."
    )


class NothingBody(Body):
    """An object without members."""

    example: ClassVar[Any] = {}


class ExtendBody(Body):
    """The new deadline of a hold."""

    example: ClassVar[Any] = {"hold_seconds": 900}

    hold_seconds: HoldSeconds = Field(
        description="The time until the hold expires, counted from now.", examples=[900]
    )


class RefundBody(LinesBody):
    """The units of a sale that are given back: the given lines, or all that are left."""

    example: ClassVar[Any] = {"seq": "return-1001-1", "lines": [LINE_EXAMPLE], "reason": "damaged"}

    seq: Name | None = Field(None, description=SEQ, examples=["return-1001-1"])
    source: Name | None = Field(None, description=SOURCE, examples=["shop-eu"])
    lines: Lines | None = Field(
        None, description="The units to give back; all that are left if it is absent."
    )
    reason: Printable | None = Field(
        None, description="A text that is stored and shown.", examples=["damaged"]
    )


class StockBody(Body):
    """The new content of a stock row. A name or threshold that is absent is removed."""

    example: ClassVar[Any] = {"available": 100, "low_stock_at": 10}

    available: Units = Field(description="The units that can be sold.", examples=[100])
    name: StockName | None = Field(
        None, description="A name for people.", examples=["White hanging heart T-light holder"]
    )
    low_stock_at: Units | None = Field(
        None, description="`low=true` lists the row at or below this number.", examples=[10]
    )


class AdjustBody(Body):
    """A correction of `available`."""

    example: ClassVar[Any] = {"seq": "count-7", "delta": -3, "reason": "broken"}

    seq: Name | None = Field(None, description=SEQ, examples=["count-7"])
    source: Name | None = Field(None, description=SOURCE, examples=["shop-eu"])
    delta: Annotated[int, Field(ge=-AVAILABLE_MAX, le=AVAILABLE_MAX)] = Field(
        description="The units to add, or to take away if it is negative.",
        examples=[-3],
        json_schema_extra={**INT64, "not": {"const": 0}},
    )
    reason: Annotated[Printable, StringConstraints(min_length=1)] = Field(
        description="A text that the row's movements show.", examples=["broken"]
    )
    expected_version: RowVersion | None = Field(
        None, description="Adjust the row only at this version; at any version if it is absent."
    )


class LimitsBody(Body):
    """The limits of a source. A limit that is absent or null is removed."""

    example: ClassVar[Any] = {"open_holds_max": 200, "held_units_max": 5_000}

    open_holds_max: HoldsMax | None = Field(
        None, description="The most holds that may be open at once.", examples=[200]
    )
    held_units_max: UnitsMax | None = Field(
        None, description="The most units that its open holds may have.", examples=[5_000]
    )
    hold_seconds_max: HoldSeconds | None = Field(
        None,
        description="The longest time from a hold's creation to its deadline.",
        examples=[3_600],
    )
    requests_per_second: Rate | None = Field(
        None, description="The most requests in a second, on average.", examples=[50]
    )


class KeyBody(Body):
    """A new key: the source that it speaks for, and its scopes."""

    example: ClassVar[Any] = {
        "seq": "key-checkout-1",
        "source": "shop-eu",
        "scopes": ["reserve", "read"],
        "label": "checkout",
    }

    seq: Name | None = Field(None, description=SEQ, examples=["key-checkout-1"])
    source: Name = Field(
        description="The calling system that will use the key.", examples=["shop-eu"]
    )
    scopes: Scopes = Field(
        description="The permissions of the key, each once. Only `admin` includes the others.",
        examples=[["reserve", "read"]],
    )
    label: Label | None = Field(
        None, description="A text by which people recognise the key.", examples=["checkout"]
    )
    expires_at: Moment | None = Field(
        None,
        description="The moment from which the key is refused, with its offset from UTC. It must be"
        " in the future. If it is absent, the key does not expire.",
        examples=["2099-12-31T00:00:00Z"],
    )


class RotateBody(Body):
    """The identity of a rotation, and the time for which the old key still works."""

    example: ClassVar[Any] = {"seq": "rotate-checkout-1", "grace_seconds": 3600}

    seq: Name | None = Field(None, description=SEQ, examples=["rotate-checkout-1"])
    grace_seconds: GraceSeconds = Field(
        GRACE_SECONDS,
        description="The time for which the old key still works, counted from now; 86,400 if it is"
        " absent.",
        examples=[3600],
    )
