"""Availability: a request's stock rows, its shortages, and overdue holds that can cover them."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from db.rows import Line
from service.domain.books import Books
from service.domain.errors import UnknownSku
from service.domain.holds import release
from service.domain.stock_row import StockView

Shortage: TypeAlias = dict[str, Any]
"""A line that asks for more than there is: `sku`, `location`, `requested`, `available`."""


def stocked(books: Books, lines: Sequence[Line]) -> list[StockView] | UnknownSku:
    """Return the stock row of each line, or the refusal that lists the rows that don't exist."""
    found = []
    for line in lines:
        row = books.look(line.key)
        if row is not None:
            found.append(row)
    if len(found) == len(lines):
        return found
    return UnknownSku.of([line.key for line in lines if books.look(line.key) is None])


def shortages_of(lines: Sequence[Line], rows: Sequence[StockView]) -> list[Shortage]:
    """Return an entry for each line that asks for more than its row has available."""
    return [
        {
            "sku": line.sku,
            "location": line.location,
            "requested": line.quantity,
            "available": row.available,
        }
        for line, row in zip(lines, rows, strict=True)
        if line.quantity > row.available
    ]


def reclaim(books: Books, shortages: Sequence[Shortage]) -> bool:
    """Expire the overdue holds on the short rows; True when there were any."""
    reclaimed = False
    for shortage in shortages:
        for hold in books.overdue_holds((shortage["sku"], shortage["location"])):
            release(books, hold, "expire")
            reclaimed = True
    return reclaimed
