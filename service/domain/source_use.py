"""The use of a source's limits by its open holds, while a batch changes it."""

from typing import Literal, NamedTuple, TypeAlias

from db.rows import SourceLimit, SourceLimitChange

Limit: TypeAlias = Literal["open_holds_max", "held_units_max"]


class Excess(NamedTuple):
    """A limit that a hold would exceed."""

    limit: Limit
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
        """True if the limit allows this many more."""
        return self.max is None or self.seen + self.delta + asked <= self.max

    def had_room(self, asked: int) -> bool:
        """True if the limit allowed this many more before the batch."""
        return self.max is None or self.seen + asked <= self.max

    def guard_room(self, asked: int) -> None:
        """Note that a verdict relies on room for this many more."""
        after = self.delta + asked
        self.highest = after if self.highest is None else max(self.highest, after)

    def guard_refusal(self, asked: int) -> None:
        """Note that a refusal relies on the batch: without it there would be room."""
        after = self.delta + asked
        self.refused = after if self.refused is None else min(self.refused, after)


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
        """True if there was room for a hold only because the batch had ended others."""

    def excess(self, units: int) -> Excess | None:
        """Return the first limit that one more hold of so many units would exceed."""
        for limit, use, asked in self._asked(units):
            if not use.has_room(asked):
                if use.had_room(asked):
                    use.guard_refusal(asked)
                return Excess(limit, use.max or 0, use.used, asked)
        for _, use, asked in self._asked(units):
            use.guard_room(asked)
            self.needs_the_batch |= not use.had_room(asked)
        return None

    def open(self, units: int) -> None:
        """Add a hold."""
        for _, use, asked in self._asked(units):
            use.guard_room(asked)
            use.delta += asked
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

    def _asked(self, units: int) -> tuple[tuple[Limit, Use, int], ...]:
        """The part of each limit that one hold of so many units needs."""
        return ("open_holds_max", self.holds, 1), ("held_units_max", self.units, units)
