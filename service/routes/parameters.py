"""Parameters that several routes take, for the documentation."""

from typing import Any

from service.bodies import NAME_MAX, TEXT
from service.documentation import Parameter
from service.headers import IDEMPOTENCY_KEY_MAX
from service.query import CURSOR_MAX, LIMIT_DEFAULT, LIMIT_MAX

NAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": TEXT}
"""The schema of a SKU, location, source, seq or job."""

PREFIX: dict[str, Any] = {"type": "string", "maxLength": NAME_MAX}
"""The schema of what such a name begins with."""

LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    "Items per page.",
)
CURSOR = Parameter(
    "cursor",
    {"type": "string", "minLength": 1, "maxLength": CURSOR_MAX},
    "The page before's `next_cursor`.",
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX},
    "May stand in for `seq`: bare or as a quoted string. Both and different is 400.",
    place="header",
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", {"type": "string"}, "An ETag the client has.", place="header"
)
