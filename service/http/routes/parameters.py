"""Parameters that several routes take, for the documentation."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from service.http.operation import Parameter
from service.http.query import CURSOR_MAX, LIMIT_DEFAULT, LIMIT_MAX, cursor_after
from service.input.bodies import NAME_MAX, TEXT

NAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": TEXT}
"""The schema of a SKU, location, source, seq or job."""

PREFIX: dict[str, Any] = {
    "type": "string",
    "maxLength": NAME_MAX,
    "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
}
"""The schema of what such a name begins with."""

LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    "Items per page.",
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": "^[!#-~]([ -~]*[!-~])?$"},
    "May stand in for `seq`: bare, as here, or as a quoted string. Both and different is 400.",
    place="header",
    example="order-1001",
)
VERSION: dict[str, Any] = {"type": "string", "pattern": '^(W/)?"[1-9][0-9]{0,18}"$'}
"""The schema of an ETag that names a version."""

IF_MATCH = Parameter(
    "If-Match", VERSION, "Only at the version that this ETag names.", place="header", example='"1"'
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", {"type": "string"}, "An ETag the client has.", place="header"
)

CREATED_AT = datetime(2026, 11, 25, 9, tzinfo=UTC)
OF_RESERVATIONS = (CREATED_AT, UUID("a518b7ec-02dc-5e23-a729-2430728ee1e0"))
OF_STOCK = (CREATED_AT, "85123A", "main")
OF_STEPS = (1, "85123A", "main")
OF_VERSIONS = 1
"""What the cursor of each kind of list is made of, for its example."""


def cursor(place: Any) -> Parameter:
    """Return the cursor of a list, with the one that continues after `place` as its example."""
    return Parameter(
        "cursor",
        {"type": "string", "minLength": 1, "maxLength": CURSOR_MAX},
        "The page before's `next_cursor`.",
        example=cursor_after(place),
    )
