"""Examples of the answers of operations, for the OpenAPI document."""

from typing import Any

from service.http.operation import Operation, Success
from service.http.schemas import MOMENT, ReservationAnswer, StockAnswer

LINE = ReservationAnswer.example["lines"][0]

BY_OPERATION: dict[str, Any] = {
    "confirm_reservation": {
        **ReservationAnswer.example,
        "state": "confirmed",
        "version": 2,
        "lines": [{**LINE, "confirmed": 2}],
    },
    "cancel_reservation": {**ReservationAnswer.example, "state": "cancelled", "version": 2},
    "extend_reservation": {
        **ReservationAnswer.example,
        "version": 2,
        "expires_at": "2026-11-22T19:35:00.123456Z",
    },
    "set_stock": {
        **StockAnswer.example,
        "available": 100,
        "held": 0,
        "version": 1,
        "updated_at": MOMENT,
    },
    "get_liveness": {"status": "live"},
    "get_metrics": "# TYPE holdfast_requests_total counter\n",
    "get_openapi_document": {"openapi": "3.1.0"},
    "get_openapi_page": "<!doctype html>…",
    "get_problem_page": "<!doctype html>…",
}
"""By operation id, the answers that differ from the example of their model."""


def answer_example(declared: Operation, answer: Success) -> Any:
    """Return an example of the body of an operation's answer."""
    if declared.id in BY_OPERATION:
        return BY_OPERATION[declared.id]
    assert answer.resource is not None  # noqa: S101 - the others are listed above
    example = answer.resource.model.example
    return {"items": [example], "next_cursor": None} if answer.is_list else example
