"""The limit: a Litestar route that only validates the same body and builds the same answer."""

from datetime import UTC, datetime
from typing import Any

from litestar import Litestar, post
from litestar.params import JSONBody

from service.domain.identifiers import reservation_id
from service.input.bodies import ReserveBody


@post("/v1/reservations")
async def reserve(data: JSONBody[ReserveBody]) -> dict[str, Any]:
    """Answer as if the reservation were stored."""
    now = datetime.now(UTC)
    return {
        "id": str(reservation_id("bench", data.seq or "")),
        "source": "bench",
        "seq": data.seq,
        "state": "confirmed",
        "version": 1,
        "lines": [
            {
                "sku": line.sku,
                "location": line.location,
                "quantity": line.quantity,
                "confirmed": line.quantity,
                "refunded": 0,
            }
            for line in data.lines
        ],
        "hold_seconds": data.hold_seconds,
        "expires_at": None,
        "created_at": now,
        "updated_at": now,
        "metadata": data.metadata,
    }


app = Litestar([reserve], openapi_config=None, logging_config=None)
