"""What goes out: the answers' models, which the documentation is made from, and their making.

The functions at the end build the answers as plain values, which is what is fast; a test holds them
against the models.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from db import rows
from db.queries.audit import Audit
from db.vocabulary import MovementKind, State
from service.domain.errors import ERRORS_MAX

encode = msgspec.json.Encoder().encode


class Answer(BaseModel):
    """A part of an answer."""


class LineAnswer(Answer):
    """Units of a SKU at a location, and what became of them."""

    sku: str
    location: str
    quantity: int
    confirmed: int
    refunded: int


class ShortageAnswer(Answer):
    """A line that asked for more than there was."""

    sku: str
    location: str
    requested: int
    available: int


class QuantityAnswer(Answer):
    """Units of a SKU at a location."""

    sku: str
    location: str
    quantity: int


class ReservationAnswer(Answer):
    """A reservation."""

    id: UUID
    source: str
    seq: str
    state: State
    version: int
    lines: list[LineAnswer]
    hold_seconds: int | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, str]
    shortages: list[ShortageAnswer] | None = Field(
        None, description="Only in state `rejected`: what was missing."
    )


class RefundAnswer(Answer):
    """Units given back."""

    id: UUID
    reservation_id: UUID
    source: str
    seq: str
    lines: list[QuantityAnswer]
    reason: str | None
    created_at: datetime


class StockAnswer(Answer):
    """A stock row; `on_hand` is `available` + `held`."""

    sku: str
    location: str
    name: str | None
    available: int
    held: int
    on_hand: int
    low_stock_at: int | None
    version: int
    updated_at: datetime


class AdjustmentAnswer(Answer):
    """A correction of `available`; `version` is the stock row's right after it."""

    id: UUID
    source: str
    seq: str
    sku: str
    location: str
    delta: int
    reason: str
    version: int
    created_at: datetime


class ImportAnswer(Answer):
    """How many rows an import created, and how many were there already."""

    job: str
    created: int
    skipped: int


class MovementAnswer(Answer):
    """One line of the ledger: the change that took its stock row to `version`."""

    sku: str
    location: str
    version: int
    kind: MovementKind
    available_delta: int
    held_delta: int
    reservation_id: UUID | None
    reservation_version: int | None
    reason: str | None
    created_at: datetime


class WrongValueAnswer(Answer):
    """A value of the request that is wrong; the message goes on after its path."""

    path: str
    message: str


class ProblemAnswer(Answer):
    """A problem document (RFC 9457). Branch on `code`; each code has fields of its own besides."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    same_seq: bool
    errors: list[WrongValueAnswer] | None = Field(
        None, max_length=ERRORS_MAX, description="Only of `invalid_request`."
    )
    truncated: Literal[True] | None = Field(
        None, description="Only if there may be more wrong values than `errors` has."
    )


class BatchResultAnswer(Answer):
    """What became of one entry: a reservation or a problem."""

    status: int
    replayed: bool
    reservation: ReservationAnswer | None = None
    problem: ProblemAnswer | None = None


class BatchAnswer(Answer):
    """What became of each entry, in order."""

    results: list[BatchResultAnswer]


class DriftAnswer(Answer):
    """One place where the books do not agree."""

    rule: str
    sku: str | None = None
    location: str | None = None
    reservation_id: UUID | None = None
    expected: str
    found: str


class CheckedAnswer(Answer):
    """How many rows an audit looked at."""

    stock: int
    reservations: int


class AuditAnswer(Answer):
    """Whether the books balance."""

    balanced: bool
    checked: CheckedAnswer
    drift: list[DriftAnswer]


class StatusAnswer(Answer):
    """What the process says of itself."""

    status: str


def reservation_answer(row: rows.Reservation) -> dict[str, Any]:
    """Return a reservation as clients see it."""
    answer: dict[str, Any] = {
        "id": row.id,
        "source": row.source,
        "seq": row.seq,
        "state": row.state,
        "version": row.version,
        "lines": [
            {
                "sku": line.sku,
                "location": line.location,
                "quantity": line.quantity,
                "confirmed": line.confirmed,
                "refunded": line.refunded,
            }
            for line in row.lines
        ],
        "hold_seconds": row.hold_seconds,
        "expires_at": row.expires_at,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "metadata": row.metadata,
    }
    if row.shortages is not None:
        answer["shortages"] = row.shortages
    return answer


def refund_answer(row: rows.Refund) -> dict[str, Any]:
    """Return a refund as clients see it."""
    return {
        "id": row.id,
        "reservation_id": row.reservation_id,
        "source": row.source,
        "seq": row.seq,
        "lines": [
            {"sku": line.sku, "location": line.location, "quantity": line.quantity}
            for line in row.lines
        ],
        "reason": row.reason,
        "created_at": row.created_at,
    }


def stock_answer(row: rows.Stock) -> dict[str, Any]:
    """Return a stock row as clients see it."""
    return {
        "sku": row.sku,
        "location": row.location,
        "name": row.name,
        "available": row.available,
        "held": row.held,
        "on_hand": row.available + row.held,
        "low_stock_at": row.low_stock_at,
        "version": row.version,
        "updated_at": row.updated_at,
    }


def adjustment_answer(row: rows.Adjustment) -> dict[str, Any]:
    """Return an adjustment as clients see it."""
    return {
        "id": row.id,
        "source": row.source,
        "seq": row.seq,
        "sku": row.sku,
        "location": row.location,
        "delta": row.delta,
        "reason": row.reason,
        "version": row.version,
        "created_at": row.created_at,
    }


def movement_answer(row: Any) -> dict[str, Any]:
    """Return a movement as clients see it."""
    return {
        "sku": row.sku,
        "location": row.location,
        "version": row.version,
        "kind": row.kind,
        "available_delta": row.available_delta,
        "held_delta": row.held_delta,
        "reservation_id": row.reservation_id,
        "reservation_version": row.reservation_version,
        "reason": row.reason,
        "created_at": row.created_at,
    }


def audit_answer(found: Audit) -> dict[str, Any]:
    """Return an audit's result as clients see it."""
    return {
        "balanced": not found.drift,
        "checked": {"stock": found.stock, "reservations": found.reservations},
        "drift": found.drift,
    }


def import_answer(row: rows.ImportJob) -> dict[str, Any]:
    """Return an import's record as clients see it."""
    return {"job": row.job, "created": row.created, "skipped": row.skipped}
