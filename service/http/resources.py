"""The resources of the API: how a row of each kind is written, versioned and addressed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.http import schemas
from service.http.responses import stock_path


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of resource: its model in the OpenAPI document and the writer of its rows."""

    model: type[BaseModel]
    write: Callable[[Any], Mapping[str, Any]]
    version_of: Callable[[Any], int] | None = None
    """The version that is a row's ETag."""
    path_of: Callable[[Any], str] | None = None
    """The address of a row."""


RESERVATION = Resource(
    schemas.ReservationAnswer,
    schemas.reservation_answer,
    version_of=lambda row: row.version,
    path_of=lambda row: f"/v1/reservations/{row.id}",
)
REFUND = Resource(
    schemas.RefundAnswer,
    schemas.refund_answer,
    version_of=lambda row: 1,  # noqa: ARG005 - a refund never changes
    path_of=lambda row: f"/v1/reservations/{row.reservation_id}/refunds/{row.id}",
)
STOCK = Resource(
    schemas.StockAnswer,
    schemas.stock_answer,
    version_of=lambda row: row.version,
    path_of=lambda row: stock_path(row.sku, row.location),
)
ADJUSTMENT = Resource(
    schemas.AdjustmentAnswer,
    schemas.adjustment_answer,
    version_of=lambda row: row.version,
    path_of=lambda row: stock_path(row.sku, row.location),
)
IMPORT = Resource(schemas.ImportAnswer, schemas.import_answer)
MOVEMENT = Resource(schemas.MovementAnswer, schemas.movement_answer)
AUDIT = Resource(schemas.AuditAnswer, schemas.audit_answer)
BATCH = Resource(schemas.BatchAnswer, dict)
STATUS = Resource(schemas.StatusAnswer, dict)
