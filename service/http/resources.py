"""The resources of the API: how a row of each kind is written, versioned and addressed.

The writers build plain values, which is fast; a test compares them with the models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from db import rows
from db.queries.audit import Audit
from db.queries.source_limits import LIMITS, LimitsAndUse
from service.http import problem_schemas, schemas
from service.http.access.issuance import IssuedKey
from service.http.responses import stock_path


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of resource: its model in the OpenAPI document and the writer of its rows."""

    model: type[schemas.Answer]
    write: Callable[[Any], Mapping[str, Any]]
    version_of: Callable[[Any], int] | None = None
    """The version that is a row's ETag."""
    path_of: Callable[[Any], str] | None = None
    """The address of a row."""


def _reservation(row: rows.Reservation) -> dict[str, Any]:
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


def _refund(row: rows.Refund) -> dict[str, Any]:
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


def _stock(row: rows.Stock) -> dict[str, Any]:
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


def _adjustment(row: rows.Adjustment) -> dict[str, Any]:
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


def _movement(row: Any) -> dict[str, Any]:
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


def _access_log_entry(row: Any) -> dict[str, Any]:
    """Return an entry of the access log as admins see it."""
    return {
        "id": row.id,
        "at": row.at,
        "key_id": row.key_id,
        "source": row.source,
        "address": row.address,
        "method": row.method,
        "route": row.route,
        "status": row.status,
        "request_id": row.request_id,
        "count": row.count,
    }


def _audit(found: Audit) -> dict[str, Any]:
    """Return an audit's result as clients see it."""
    return {
        "balanced": not found.drift,
        "checked": {"stock": found.stock, "reservations": found.reservations},
        "drift": found.drift,
    }


def _import(row: rows.ImportJob) -> dict[str, Any]:
    """Return an import's record as clients see it."""
    return {"job": row.job, "created": row.created, "skipped": row.skipped}


def _source_limits(row: LimitsAndUse) -> dict[str, Any]:
    """Return the limits of a source as clients see them."""
    return {
        "source": row.source,
        **{name: getattr(row, name) for name in LIMITS},
        "used": {"open_holds": row.open_holds, "held_units": row.held_units},
    }


def _key(row: Any) -> dict[str, Any]:
    """Return a key as clients see it, without the key itself."""
    answer = {
        "id": row.id,
        "prefix": row.prefix,
        "source": row.source,
        "scopes": row.scopes,
        "label": row.label,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
    }
    if row.revoked_at is not None:
        answer["revoked_at"] = row.revoked_at
    return answer


def _new_key(issued: IssuedKey) -> dict[str, Any]:
    """Return a new key as the client that made it sees it once."""
    return {**_key(issued.row), "key": issued.key}


RESERVATION = Resource(
    schemas.ReservationAnswer,
    _reservation,
    version_of=lambda row: row.version,
    path_of=lambda row: f"/v1/reservations/{row.id}",
)
REFUND = Resource(
    schemas.RefundAnswer,
    _refund,
    version_of=lambda row: 1,  # noqa: ARG005 - a refund never changes
    path_of=lambda row: f"/v1/reservations/{row.reservation_id}/refunds/{row.id}",
)
STOCK = Resource(
    schemas.StockAnswer,
    _stock,
    version_of=lambda row: row.version,
    path_of=lambda row: stock_path(row.sku, row.location),
)
ADJUSTMENT = Resource(
    schemas.AdjustmentAnswer,
    _adjustment,
    version_of=lambda row: row.version,
    path_of=lambda row: stock_path(row.sku, row.location),
)
KEY = Resource(schemas.KeyAnswer, _key, path_of=lambda row: f"/v1/keys/{row.id}")
NEW_KEY = Resource(schemas.NewKeyAnswer, _new_key, path_of=lambda issued: f"/v1/keys/{issued.id}")
IMPORT = Resource(schemas.ImportJobAnswer, _import)
MOVEMENT = Resource(schemas.MovementAnswer, _movement)
SOURCE_LIMITS = Resource(schemas.SourceLimitsAnswer, _source_limits)
ACCESS_LOG_ENTRY = Resource(schemas.AccessLogEntryAnswer, _access_log_entry)
AUDIT = Resource(schemas.AuditAnswer, _audit)
BATCH = Resource(problem_schemas.BatchResultsAnswer, dict)
STATUS = Resource(schemas.ServiceStatusAnswer, dict)
