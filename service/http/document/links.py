"""Links of the OpenAPI document: the operations that may follow an operation."""

from typing import Any

AFTER_RESERVE = (
    "get_reservation", "confirm_reservation", "cancel_reservation", "extend_reservation",
    "refund_reservation", "list_refunds", "list_reservation_movements",
)  # fmt: skip
AFTER_STOCK = ("get_stock", "adjust_stock", "delete_stock", "list_stock_movements")
AFTER_KEY = ("get_key", "rotate_key", "revoke_key")
AFTER_REFUND = ("get_refund",)
LINKS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    **dict.fromkeys(
        ("reserve", "confirm_reservation", "cancel_reservation", "extend_reservation"),
        ({"id": "id"}, AFTER_RESERVE),
    ),
    "refund_reservation": ({"id": "reservation_id", "refund_id": "id"}, AFTER_REFUND),
    **dict.fromkeys(
        ("set_stock", "adjust_stock"),
        ({"sku": "sku", "location": "location"}, AFTER_STOCK),
    ),
    "set_source_limits": ({"source": "source"}, ("get_source_limits",)),
    **dict.fromkeys(("create_key", "rotate_key"), ({"id": "id"}, AFTER_KEY)),
}
"""For each operation: the members of its answer that are parameters of the operations that may
follow it, and the ids of those operations."""


def links_of(operation_id: str) -> dict[str, Any]:
    """Return the OpenAPI links from an operation's answer to the operations that may follow."""
    parameters, following = LINKS.get(operation_id, ({}, ()))
    found = {name: f"$response.body#/{member}" for name, member in parameters.items()}
    return {name: {"operationId": name, "parameters": found} for name in following}
