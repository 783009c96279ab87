"""The models of the answers, from which the OpenAPI document gets its schemas.

`service.http.resources` writes the answers without them.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from db.vocabulary import MovementKind, Scope, State
from service.input.bodies import INT64

encode = msgspec.json.Encoder().encode

Integer = Annotated[int, Field(json_schema_extra=INT64)]
"""A number that may need 64 bits."""

ID = "b3258ffd-6a23-569c-b947-9d134601c30e"
MOMENT = "2026-11-22T19:05:00.123456Z"


class Answer(BaseModel):
    """An answer, or a part of one."""

    example: ClassVar[Any] = None
    """A valid answer, for the OpenAPI document."""


class ReservationLineAnswer(Answer):
    """Units of a SKU at a location, and the part of them that was sold and given back."""

    sku: str
    location: str
    quantity: int = Field(description="The units that were asked for.")
    confirmed: int = Field(description="The units that were sold.")
    refunded: int = Field(description="The sold units that were given back.")


class ShortageAnswer(Answer):
    """A line for which there was not enough stock."""

    sku: str
    location: str
    requested: Integer
    available: Integer


class UnitsAnswer(Answer):
    """Units of a SKU at a location."""

    sku: str
    location: str
    quantity: int


class StockKeyAnswer(Answer):
    """A SKU and a location, which together identify a stock row."""

    sku: str
    location: str


class ReservationAnswer(Answer):
    """A reservation, in any of its states."""

    example: ClassVar[Any] = {
        "id": ID,
        "source": "shop-eu",
        "seq": "order-1001",
        "state": "held",
        "version": 1,
        "lines": [
            {"sku": "85123A", "location": "main", "quantity": 2, "confirmed": 0, "refunded": 0}
        ],
        "hold_seconds": 900,
        "expires_at": "2026-11-22T19:20:00.123456Z",
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "metadata": {"cart": "c-77"},
    }

    id: UUID
    source: str = Field(description="The system that created it.")
    seq: str = Field(description="That system's serial number for the request.")
    state: State
    version: int = Field(description="It begins at 1, and each transition raises it by 1.")
    lines: list[ReservationLineAnswer]
    hold_seconds: int | None = Field(description="As requested; null for a direct sale.")
    expires_at: datetime | None = Field(description="The deadline of the hold.")
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, str]
    shortages: list[ShortageAnswer] = Field(
        default_factory=list, description="Only in the state `rejected`: the lines that were short."
    )


class RefundAnswer(Answer):
    """Units of a sale that were given back."""

    example: ClassVar[Any] = {
        "id": "a4f6ab6b-89fa-5f79-a26d-26d007d1a4fa",
        "reservation_id": ID,
        "source": "shop-eu",
        "seq": "return-1001-1",
        "lines": [{"sku": "85123A", "location": "main", "quantity": 1}],
        "reason": "damaged",
        "created_at": MOMENT,
    }

    id: UUID
    reservation_id: UUID
    source: str
    seq: str
    lines: list[UnitsAnswer]
    reason: str | None
    created_at: datetime


class StockAnswer(Answer):
    """A stock row: the units of a SKU at a location."""

    example: ClassVar[Any] = {
        "sku": "85123A",
        "location": "main",
        "name": "White hanging heart",
        "available": 98,
        "held": 2,
        "on_hand": 100,
        "low_stock_at": 10,
        "version": 2,
        "updated_at": MOMENT,
    }

    sku: str
    location: str
    name: str | None
    available: Integer = Field(description="The units that can be sold.")
    held: Integer = Field(description="The units that belong to open holds.")
    on_hand: Integer = Field(description="`available` plus `held`.")
    low_stock_at: Integer | None
    version: Integer = Field(description="It begins at 1, and each change raises it by 1.")
    updated_at: datetime


class AdjustmentAnswer(Answer):
    """A correction of `available`."""

    example: ClassVar[Any] = {
        "id": "eb24e886-b3ea-5552-8c72-a068bc8e7c01",
        "source": "shop-eu",
        "seq": "count-7",
        "sku": "85123A",
        "location": "main",
        "delta": -3,
        "reason": "broken",
        "version": 3,
        "created_at": MOMENT,
    }

    id: UUID
    source: str
    seq: str
    sku: str
    location: str
    delta: Integer
    reason: str
    version: Integer = Field(description="The version of the stock row after the adjustment.")
    created_at: datetime


class ImportJobAnswer(Answer):
    """The result of an import."""

    example: ClassVar[Any] = {"job": "monday", "created": 2, "skipped": 1}

    job: str
    created: int = Field(description="Rows that did not exist and were created.")
    skipped: int = Field(description="Rows that existed and were left as they are.")


class MovementAnswer(Answer):
    """A line of the ledger: one change of a stock row."""

    example: ClassVar[Any] = {
        "sku": "85123A",
        "location": "main",
        "version": 2,
        "kind": "reserve",
        "available_delta": -2,
        "held_delta": 2,
        "reservation_id": ID,
        "reservation_version": 1,
        "reason": None,
        "created_at": MOMENT,
    }

    sku: str
    location: str
    version: Integer = Field(description="The version of the stock row after the change.")
    kind: MovementKind
    available_delta: Integer
    held_delta: Integer
    reservation_id: UUID | None = Field(
        description="The reservation that moved the units, if the caller may see it."
    )
    reservation_version: int | None = Field(description="The reservation's version after the step.")
    reason: str | None = Field(description="The reason of an adjustment.")
    created_at: datetime


class UsedLimitsAnswer(Answer):
    """What the open holds of a source use of its limits."""

    open_holds: Integer
    held_units: Integer


class SourceLimitsAnswer(Answer):
    """The limits of a source; null: no limit."""

    example: ClassVar[Any] = {
        "source": "shop-eu",
        "open_holds_max": 200,
        "held_units_max": 5_000,
        "hold_seconds_max": None,
        "requests_per_second": None,
        "used": {"open_holds": 3, "held_units": 7},
    }

    source: str
    open_holds_max: int | None = Field(description="The most holds that may be open at once.")
    held_units_max: Integer | None = Field(
        description="The most units that its open holds may have."
    )
    hold_seconds_max: int | None = Field(
        description="The longest time from a hold's creation to its deadline."
    )
    requests_per_second: int | None = Field(
        description="The most requests in a second, on average."
    )
    used: UsedLimitsAnswer


class KeyAnswer(Answer):
    """A key, without the key itself."""

    example: ClassVar[Any] = {
        "id": "0f4f2b1c-6a1e-4f43-9a53-2f6c2f0c7d55",
        "prefix": "hf_aB3dE",
        "source": "shop-eu",
        "scopes": ["reserve", "read"],
        "label": "checkout",
        "created_at": MOMENT,
        "expires_at": None,
        "last_used_at": None,
    }

    id: UUID
    prefix: str | None = Field(
        description="The first characters of the key; null if its value was chosen too short, or an"
        " older version made it."
    )
    source: str = Field(description="The calling system that uses it.")
    scopes: list[Scope]
    label: str | None
    created_at: datetime
    expires_at: datetime | None = Field(description="The moment from which it is refused.")
    last_used_at: datetime | None = Field(
        description="The last use, at most a minute too early; null if it was never used."
    )
    revoked_at: datetime | SkipJsonSchema[None] = Field(
        None, description="Only of a revoked key: the time of its revocation."
    )


class NewKeyAnswer(KeyAnswer):
    """A key that was made by this request, with the key itself."""

    example: ClassVar[Any] = {
        **KeyAnswer.example,
        "key": "hf_aB3dEexampleexampleexampleexampleexampleexa",
    }

    key: str = Field(description="The key. It is stored nowhere and never shown again.")


class DriftAnswer(Answer):
    """A place where the books do not agree."""

    rule: str
    sku: str | None
    location: str | None
    reservation_id: UUID | None
    source: str | None
    expected: str
    found: str


class CheckedRowsAnswer(Answer):
    """The numbers of rows that an audit read."""

    stock: int
    reservations: int


class AuditAnswer(Answer):
    """The result of an audit of the books."""

    example: ClassVar[Any] = {
        "balanced": True,
        "checked": {"stock": 8, "reservations": 1},
        "drift": [],
    }

    balanced: bool = Field(description="True when there is no drift.")
    checked: CheckedRowsAnswer
    drift: list[DriftAnswer]


class AccessLogEntryAnswer(Answer):
    """A use of an admin key, or equal uses or refusals of a minute.

    A member is null if it has no value, or if the entry counts requests that differ in it.
    """

    example: ClassVar[Any] = {
        "id": "0c9d3f5e-8f3c-4b77-9f51-3d0f8f0d9a11",
        "at": MOMENT,
        "key_id": "7d7f5f0a-55f2-4a3e-9d0e-5c3f0f1a2b3c",
        "source": "admin",
        "address": "203.0.113.7",
        "method": "PUT",
        "route": "/v1/stock/{sku}/{location}",
        "status": 201,
        "request_id": "8a7f2c4e",
        "count": 1,
    }

    id: UUID
    at: datetime = Field(description="The time of the request, or of the first that is counted.")
    key_id: UUID | None = Field(description="The key; null when no valid key was sent.")
    source: str | None = Field(description="The source of the key.")
    address: str | None = Field(description="The address of the client.")
    method: str | None
    route: str | None = Field(description="The template of the path, never the path itself.")
    status: int | None = Field(description="The status of the answer.")
    request_id: str | None = Field(description="The request's id, if the entry has one request.")
    count: Integer = Field(description="The number of requests.")


class ServiceStatusAnswer(Answer):
    """The state of the process."""

    example: ClassVar[Any] = {"status": "ready"}

    status: Literal["live", "ready"]


class InvalidValueAnswer(Answer):
    """A value of the request that is not valid."""

    path: str = Field(description="The place of the value, as `lines[0].quantity`.")
    message: str = Field(description="The rest of a sentence that begins with the path.")
