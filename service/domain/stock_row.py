"""A stock row while a batch changes it."""

from typing import Protocol

from db.rows import Stock, StockChange


class StockView(Protocol):
    """A stock row as the batch has changed it so far, for reading only."""

    @property
    def available(self) -> int:
        """Units that can be sold."""

    @property
    def held(self) -> int:
        """Units that belong to open holds."""

    @property
    def version(self) -> int:
        """The version after the changes so far."""


class StockRow:
    """A stock row as the batch changes it."""

    __slots__ = (
        "available", "available_delta", "created_at", "deleted", "held", "held_delta", "is_new",
        "location", "low_stock_at", "lowest", "name", "pinned", "seen_version", "sku", "steps",
        "updated_at",
    )  # fmt: skip

    def __init__(self, seen: Stock, *, is_new: bool = False) -> None:
        self.sku = seen.sku
        self.location = seen.location
        self.name = seen.name
        self.available = seen.available
        self.held = seen.held
        self.low_stock_at = seen.low_stock_at
        self.seen_version = seen.version
        self.deleted = seen.deleted
        self.updated_at = seen.updated_at
        self.created_at = seen.updated_at if is_new else None
        self.is_new = is_new
        self.pinned = False
        self.steps = 0
        self.available_delta = 0
        self.held_delta = 0
        self.lowest = 0

    @property
    def version(self) -> int:
        """The version after the changes so far."""
        return self.seen_version + self.steps

    def stock(self) -> Stock:
        """Return the row as it is now."""
        return Stock(
            self.sku, self.location, self.name, self.available, self.held, self.low_stock_at,
            self.version, self.updated_at, self.deleted, self.created_at,
        )  # fmt: skip

    def change(self) -> StockChange:
        """Return the guarded change that makes the row as it is now."""
        return StockChange(
            self.sku, self.location, self.available_delta, self.held_delta, self.lowest,
            self.steps, self.seen_version if self.pinned else None, self.name, self.low_stock_at,
            self.deleted, self.updated_at,
        )  # fmt: skip
