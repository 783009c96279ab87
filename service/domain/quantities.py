"""Units of stock rows, as rules compare them and as refusals report them."""

from collections.abc import Iterable, Mapping
from typing import Any

from db.rows import Line, StockKey


def entry(key: StockKey, quantity: int) -> dict[str, Any]:
    """Return the entry of a refusal about units of one stock row."""
    return {"sku": key[0], "location": key[1], "quantity": quantity}


def quantities_of(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Return an entry for each line."""
    return [entry(line.key, line.quantity) for line in lines]


def by_key(lines: Iterable[Line]) -> dict[StockKey, int]:
    """Return the units of each stock row."""
    return {line.key: line.quantity for line in lines}


def units_of(lines: Iterable[Line]) -> int:
    """Return the units of all lines together."""
    return sum([line.quantity for line in lines])


def exceeds(asked: Mapping[StockKey, int], there: Mapping[StockKey, int]) -> bool:
    """True when more units of a stock row are requested than there are."""
    return any(quantity > there.get(key, 0) for key, quantity in asked.items())
