"""What comes in: the bodies' models, validated from their bytes by `service.input.parsing`."""

from typing import Annotated
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic.config import JsonDict
from pydantic_core import CoreSchema

LINES_MAX = 1_000
QUANTITY_MAX = 1_000_000
HOLD_SECONDS_MAX = 604_800
UNITS_MAX = 1_000_000_000_000
BATCH_MAX = 1_000
BATCH_LINES_MAX = 10_000
METADATA_MAX = 16
VERSION_MAX = 2**63 - 1

NAME_MAX = 128
"""Characters of a SKU, location, source or seq."""

CONTROL = r"\x00-\x1f\x7f-\x9f"
INVISIBLE = (  # what Unicode has programs show as nothing, but for what emoji end in
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
)
AT_NO_END = rf"\s{CONTROL}{INVISIBLE}"
AT_NO_BEGINNING = rf"{AT_NO_END}\ufe00-\ufe0f"  # these choose between variants of what they follow
TEXT = rf"^[^{AT_NO_BEGINNING}]([^{CONTROL}]*[^{AT_NO_END}])?$"
"""No control characters, no spaces or invisible characters around it."""

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL takes no NUL."""


def _no_dots(value: str) -> str:
    if value in (".", ".."):
        raise ValueError("must not be . or .., which can't be addressed in a path")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_MAX, pattern=TEXT)]
NO_DOTS: JsonDict = {"not": {"enum": [".", ".."]}}
PathName = Annotated[Name, AfterValidator(_no_dots), Field(json_schema_extra=NO_DOTS)]
Printable = Annotated[str, StringConstraints(max_length=1_000, pattern=NO_NUL)]
StockName = Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)]
MetadataKey = Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)]
Quantity = Annotated[int, Field(ge=1, le=QUANTITY_MAX)]
HoldSeconds = Annotated[int, Field(ge=1, le=HOLD_SECONDS_MAX)]
Units = Annotated[int, Field(ge=0, le=UNITS_MAX)]


CHOSEN_ID = (
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[457][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
)
ChosenId = Annotated[
    UUID,
    Field(
        description="A UUID of version 4 or 7, or the one derived from the source and the seq.",
        json_schema_extra={"pattern": CHOSEN_ID},
    ),
]

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
    """A request's body. Other types than the named ones are refused, and so are unknown members.

    Unknown members are not pydantic's to refuse: it makes an error of each of a million of them.
    `service.input.parsing` compares `members` with what the JSON has, and then looks for the
    first ones.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonDict:
        """Say in the schema, too, that unknown members are refused."""
        schema = handler(core_schema)
        handler.resolve_ref_schema(schema)["additionalProperties"] = False
        return schema

    def members(self) -> int:
        """How many members the JSON had, here and below, if it has no others and none twice."""
        return len(self.model_fields_set)


class LineBody(Body):
    """Units of a SKU at a location."""

    sku: PathName = Field(examples=["85123A"])
    location: PathName = Field("main", examples=["main"])
    quantity: Quantity = Field(examples=[2])


Lines = Annotated[list[LineBody], Field(min_length=1, max_length=LINES_MAX, fail_fast=True)]


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
    id: ChosenId | None = None
    lines: Lines
    hold_seconds: HoldSeconds | None = Field(None, examples=[900])
    metadata: Annotated[
        dict[MetadataKey, MetadataValue], Field(max_length=METADATA_MAX, fail_fast=True)
    ] = Field(default_factory=dict, examples=[{"cart": "c-77"}])

    def members(self) -> int:
        """Count the metadata's members too."""
        return super().members() + len(self.metadata)


class BatchBody(Body):
    """Many reservations, each of which stands for itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reservations": [RESERVE_EXAMPLE]}]})

    reservations: Annotated[
        list[ReserveBody], Field(min_length=1, max_length=BATCH_MAX, fail_fast=True)
    ]


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
    name: StockName | None = Field(None, examples=["White hanging heart T-light holder"])
    low_stock_at: Units | None = Field(None, examples=[10])


class AdjustBody(Body):
    """A correction of `available`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"seq": "count-7", "delta": -3, "reason": "broken"}]}
    )

    seq: Name | None = Field(None, examples=["count-2026-11-22-7"])
    source: Name | None = Field(None, examples=["shop-eu"])
    delta: Annotated[int, Field(ge=-UNITS_MAX, le=UNITS_MAX)] = Field(
        examples=[-3], json_schema_extra={"not": {"const": 0}}
    )
    reason: Annotated[Printable, StringConstraints(min_length=1)] = Field(examples=["broken"])
    expected_version: Annotated[int, Field(ge=1, le=VERSION_MAX)] | None = None
