"""Parameters that several routes take, for the documentation."""

from service.documentation import Parameter
from service.requests import LIMIT_DEFAULT, LIMIT_MAX

LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    "Items per page.",
)
CURSOR = Parameter("cursor", {"type": "string"}, "The page before's `next_cursor`.")
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    {"type": "string"},
    "May stand in for `seq`: bare or as a quoted string. Both and different is 400.",
    place="header",
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", {"type": "string"}, "An ETag the client has.", place="header"
)
