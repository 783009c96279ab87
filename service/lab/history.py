"""Whether a SKU's history can be explained: a linearizability check of a counter.

Deciding linearizability is NP-complete in general (Gibbons and Korach, 1997). Here it is not, for
the ledger names the order in which units moved: that order is the witness, and the check is
whether it (1) never goes below zero, (2) agrees with real time - what was answered before another
was asked comes before it (Herlihy and Wing, 1990) - and (3) has a moment for every refusal, between
its call and its answer, at which the shelf held just what the refusal says.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

FINDINGS_MAX = 10
"""How many findings of each kind are told; the first ones say enough."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Units taken (negative) or given (positive) between a call and its answer, in seconds."""

    delta: int
    called: float = -inf
    answered: float = inf
    """Infinity when no answer said so."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal: `units` were asked for, and `available` is what it says there were."""

    units: int
    available: int
    called: float
    answered: float


def check_counter(initial: int, moves: Sequence[Moved], refusals: Sequence[Refused]) -> list[str]:
    """Return what can't be explained of a counter's history; empty when it is linearizable.

    `moves` are in the order in which the ledger says they happened.
    """
    states = list(accumulate((move.delta for move in moves), initial=initial))
    findings = [
        f"oversold: {state} units left after move {place}"
        for place, state in enumerate(states)
        if state < 0
    ][:FINDINGS_MAX]
    findings += _out_of_order(moves)[:FINDINGS_MAX]
    return findings + _unexplained(states, moves, refusals)[:FINDINGS_MAX]


def _out_of_order(moves: Sequence[Moved]) -> list[str]:
    """The moves that were asked for only after one behind them had been answered."""
    findings = []
    earliest_answer = inf
    for place in range(len(moves) - 1, -1, -1):
        if earliest_answer < moves[place].called:
            findings.append(f"out of order: move {place} was asked for after a later one's answer")
        earliest_answer = min(earliest_answer, moves[place].answered)
    return findings


def _unexplained(
    states: Sequence[int], moves: Sequence[Moved], refusals: Sequence[Refused]
) -> list[str]:
    """The refusals that no moment between call and answer explains.

    State number p is the one after p moves. Refusals take the earliest state they can, in the
    order of their calls, and none that was asked for after another's answer one before that one's.
    """
    places = _Places(states, moves)
    findings = []
    placed: list[tuple[float, int]] = []  # (answer, state) of refusals, answers ascending
    for refusal in sorted(refusals, key=lambda refusal: refusal.called):
        before = bisect_left(placed, (refusal.called, -1))
        floor = placed[before - 1][1] if before else 0
        place = places.find(refusal, floor)
        if place is None:
            findings.append(
                f"stale refusal: asked for {refusal.units}, told there were {refusal.available},"
                " which was so at no moment between call and answer"
            )
        else:
            _keep(placed, refusal.answered, place)
    return findings


def _keep(placed: list[tuple[float, int]], answered: float, place: int) -> None:
    """Note a refusal so that the last entry before any time has the highest state until then."""
    at = bisect_left(placed, (answered, place))
    if at and placed[at - 1][1] >= place:
        return
    end = at
    while end < len(placed) and placed[end][1] <= place:
        end += 1
    placed[at:end] = [(answered, place)]


class _Places:
    """Which states a refusal can have seen."""

    def __init__(self, states: Sequence[int], moves: Sequence[Moved]) -> None:
        self._by_units: dict[int, list[int]] = {}
        for place, units in enumerate(states):
            self._by_units.setdefault(units, []).append(place)
        answers = sorted((move.answered, place) for place, move in enumerate(moves, start=1))
        self._answers = [answered for answered, _ in answers]
        self._highest = list(accumulate((place for _, place in answers), max, initial=0))
        calls = sorted(((move.called, place) for place, move in enumerate(moves)), reverse=True)
        self._calls = [-called for called, _ in calls]
        self._lowest = list(accumulate((place for _, place in calls), min, initial=len(moves)))

    def find(self, refusal: Refused, floor: int) -> int | None:
        """Return the earliest state that explains the refusal, from `floor` on, or None."""
        if refusal.units <= refusal.available:
            return None
        first = max(floor, self._highest[bisect_left(self._answers, refusal.called)])
        last = self._lowest[bisect_left(self._calls, -refusal.answered)]
        candidates = self._by_units.get(refusal.available, [])
        start = bisect_left(candidates, first)
        return candidates[start] if start < bisect_right(candidates, last) else None
