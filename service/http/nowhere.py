"""The hint in the answer to an unknown address."""

from service.input.messages import near

RESOURCES = ("reservations", "stock", "imports", "audit")
BELOW_A_RESERVATION = ("confirm", "cancel", "extend", "refunds", "movements")
BELOW_A_STOCK_ROW = ("adjustments", "movements")

NOTHING = "There is nothing at this address."


def nothing_at(path: str) -> str:
    """Return the detail of a 404, with the known address that is most like this one, if any."""
    if path.endswith("/"):
        return f"{NOTHING} Remove the slash at its end."
    meant = _meant(path.split("/", 6)[1:])
    return f"{NOTHING} Did you mean {meant}?" if meant else NOTHING


def _meant(segments: list[str]) -> str | None:
    match segments:
        case [resource, *_] if resource in RESOURCES:
            return f"/v1/{resource}"
        case ["v1", "reservations", _, step]:
            known = near(step, BELOW_A_RESERVATION)
            return known and f"/v1/reservations/{{id}}/{known}"
        case ["v1", "stock", _, _, step]:
            known = near(step, BELOW_A_STOCK_ROW)
            return known and f"/v1/stock/{{sku}}/{{location}}/{known}"
        case ["v1", resource, *_]:
            known = near(resource, RESOURCES)
            return known if known is None or known == resource else f"/v1/{known}"
    return None
