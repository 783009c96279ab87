"""Checks that a SKU's history is linearizable, as the history of a counter.

To decide linearizability is NP-complete in general (Gibbons and Korach, 1997). Here it is easy,
because the ledger records the order in which units moved. That order is the witness. It must
(1) never go below zero, (2) agree with real time: a request that was answered before another was
sent comes first (Herlihy and Wing, 1990), and (3) contain a moment for every refusal, between its
call and its answer, at which the number of units was the one that the refusal reports.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

FINDINGS_MAX = 10
"""The number of findings of each kind that are reported."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Units taken (negative) or returned (positive) between a call and its answer, in seconds."""

    delta: int
    called: float = -inf
    answered: float = inf
    """Infinity when no answer confirmed it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal of a request for `units`; it reports that `available` units were left."""

    units: int
    available: int
    called: float
    answered: float


def check_counter(initial: int, moves: Sequence[Moved], refusals: Sequence[Refused]) -> list[str]:
    """Return a sentence for each violation in a counter's history; none if it is linearizable.

    `moves` are in the order of the ledger.
    """
    states = list(accumulate((move.delta for move in moves), initial=initial))
    findings = [
        f"oversold: {state} units left after move {index}"
        for index, state in enumerate(states)
        if state < 0
    ][:FINDINGS_MAX]
    findings += _out_of_order(moves)[:FINDINGS_MAX]
    return findings + _unexplained(states, moves, refusals)[:FINDINGS_MAX]


def _out_of_order(moves: Sequence[Moved]) -> list[str]:
    """Return the moves that were requested only after a later move had been answered."""
    findings = []
    earliest_answer = inf
    for index in range(len(moves) - 1, -1, -1):
        if earliest_answer < moves[index].called:
            findings.append(
                f"out of order: move {index} was requested after the answer of a later one"
            )
        earliest_answer = min(earliest_answer, moves[index].answered)
    return findings


def _unexplained(
    states: Sequence[int], moves: Sequence[Moved], refusals: Sequence[Refused]
) -> list[str]:
    """Return the refusals that no moment between call and answer explains.

    State n is the one after n moves. In the order of their calls, refusals are assigned the
    earliest possible state. A refusal that was called after another one's answer can't have an
    earlier state than that one.
    """
    states_by_refusal = _StateIndex(states, moves)
    findings = []
    assigned: list[tuple[float, int]] = []  # (answer, state) of refusals, answers ascending
    for refusal in sorted(refusals, key=lambda refusal: refusal.called):
        before = bisect_left(assigned, (refusal.called, -1))
        floor = assigned[before - 1][1] if before else 0
        state = states_by_refusal.find(refusal, floor)
        if state is None:
            findings.append(
                f"stale refusal: {refusal.units} units were requested, and the answer reports"
                f" {refusal.available}, which is true at no moment between call and answer"
            )
        else:
            _keep(assigned, refusal.answered, state)
    return findings


def _keep(assigned: list[tuple[float, int]], answered: float, state: int) -> None:
    """Add a refusal; the last entry before any moment keeps the highest state until then."""
    at = bisect_left(assigned, (answered, state))
    if at and assigned[at - 1][1] >= state:
        return
    end = at
    while end < len(assigned) and assigned[end][1] <= state:
        end += 1
    assigned[at:end] = [(answered, state)]


class _StateIndex:
    """Finds the states that a refusal can have seen."""

    def __init__(self, states: Sequence[int], moves: Sequence[Moved]) -> None:
        self._by_units: dict[int, list[int]] = {}
        for state, units in enumerate(states):
            self._by_units.setdefault(units, []).append(state)
        answers = sorted((move.answered, state) for state, move in enumerate(moves, start=1))
        self._answers = [answered for answered, _ in answers]
        self._highest = list(accumulate((state for _, state in answers), max, initial=0))
        calls = sorted(((move.called, state) for state, move in enumerate(moves)), reverse=True)
        self._calls = [-called for called, _ in calls]
        self._lowest = list(accumulate((state for _, state in calls), min, initial=len(moves)))

    def find(self, refusal: Refused, floor: int) -> int | None:
        """Return the earliest state that explains the refusal, from `floor` on, or None."""
        if refusal.units <= refusal.available:
            return None
        first = max(floor, self._highest[bisect_left(self._answers, refusal.called)])
        last = self._lowest[bisect_left(self._calls, -refusal.answered)]
        candidates = self._by_units.get(refusal.available, [])
        start = bisect_left(candidates, first)
        return candidates[start] if start < bisect_right(candidates, last) else None
