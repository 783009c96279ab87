"""What the open holds of a source use of its limits, while a batch changes it."""

from typing import Literal, NamedTuple

from db.rows import SourceLimit, SourceLimitChange


class Excess(NamedTuple):
    """A limit that a hold would exceed."""

    limit: Literal["open_holds_max", "held_units_max"]
    max: int
    used: int
    asked: int


class Use:
    """A number with a limit: a source's open holds, or their units.

    `delta` is the change so far. `highest` and `refused` are the guards: at the write, the number
    plus `highest` must still be within the limit, and the number plus `refused` beyond it.
    """

    __slots__ = ("delta", "highest", "max", "refused", "seen")

    def __init__(self, seen: int, limit: int | None) -> None:
        self.seen = seen
        self.max = limit
        self.delta = 0
        self.highest: int | None = None
        self.refused: int | None = None

    @property
    def used(self) -> int:
        """The number after the changes so far; while holds are still counted it may be too low."""
        return max(self.seen + self.delta, 0)

    def has_room(self, asked: int) -> bool:
        """True if the limit allows this many more; the guard is noted."""
        after = self.delta + asked
        if self.max is None or self.seen + after <= self.max:
            self.highest = after if self.highest is None else max(self.highest, after)
            return True
        if self.seen + asked <= self.max:  # else it was refused by what was seen, without the batch
            self.refused = after if self.refused is None else min(self.refused, after)
        return False

    def needs_the_batch(self, asked: int) -> bool:
        """True if there is room only because the batch has ended holds."""
        return self.max is not None and self.seen + asked > self.max

    def add(self, number: int) -> None:
        """Add to the number, even if it is beyond the limit now."""
        self.delta += number
        self.highest = self.delta if self.highest is None else max(self.highest, self.delta)


class SourceUse:
    """The open holds of a source and their units."""

    __slots__ = ("holds", "is_changed", "is_relied_on", "needs_the_batch", "source", "units")

    def __init__(self, seen: SourceLimit) -> None:
        self.source = seen.source
        self.holds = Use(seen.open_holds, seen.open_holds_max)
        self.units = Use(seen.held_units, seen.held_units_max)
        self.is_changed = False
        self.is_relied_on = False
        """True if the guards are needed although the batch does not change the use."""
        self.needs_the_batch = False
        """True if a hold was within the limits only because the batch had ended holds."""

    def excess(self, units: int) -> Excess | None:
        """Return the first limit that one more hold of so many units would exceed."""
        if not self.holds.has_room(1):
            return Excess("open_holds_max", self.holds.max or 0, self.holds.used, 1)
        if not self.units.has_room(units):
            return Excess("held_units_max", self.units.max or 0, self.units.used, units)
        self.needs_the_batch |= self.holds.needs_the_batch(1) or self.units.needs_the_batch(units)
        return None

    def open(self, units: int) -> None:
        """Add a hold."""
        self.holds.add(1)
        self.units.add(units)
        self.is_changed = True

    def close(self, units: int) -> None:
        """Remove a hold."""
        self.holds.delta -= 1
        self.units.delta -= units
        self.is_changed = True

    def change(self) -> SourceLimitChange:
        """Return the guarded change of the source's use."""
        return SourceLimitChange(
            self.source,
            self.holds.delta,
            self.units.delta,
            self.holds.highest,
            self.units.highest,
            self.holds.refused,
            self.units.refused,
        )
