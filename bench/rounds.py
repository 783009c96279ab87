"""Loads every service in turn, round by round, and returns the figures."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.progress import track

from bench import bare_statement
from bench.cases import STATEMENT, Case
from bench.load import Measured, load
from bench.stand import Stand

Results = dict[tuple[str, str], list[Measured]]
"""The rounds of each (case, service)."""


def measure(stand: Stand, cases: Sequence[Case], rounds: int, seconds: int) -> Results:
    """Load every service with every case that names it, round by round."""
    order = [
        (case, name)
        for case in cases
        for name in case.services
        if name in stand.urls or name == STATEMENT
    ]
    # Every other round runs backwards, so that a service does not always follow the same one.
    turns = [turn for number in range(rounds) for turn in order[:: (-1) ** number]]
    results: Results = {}
    for number, (case, name) in enumerate(track(turns, "measuring")):
        measured = one_round(stand, case, name, f"{number}", seconds)
        results.setdefault((case.name, name), []).append(measured)
    return results


def one_round(stand: Stand, case: Case, name: str, prefix: str, seconds: int) -> Measured:
    """Load one service once."""
    if name == STATEMENT:
        return bare_statement.measure(
            stand.database_url(), prefix=prefix, sent=case.sent, seconds=seconds
        )
    key = stand.key_for(name)
    return load(stand.urls[name], key=key, prefix=prefix, sent=case.sent, seconds=seconds)


def figures(results: Results) -> list[dict[str, Any]]:
    """Return every round's figures, for a file."""
    return [
        {"case": case, "service": name, "rounds": [asdict(one) for one in measured]}
        for (case, name), measured in results.items()
    ]


def rate(one: Measured) -> float:
    """Return requests per second."""
    return one.requests_per_second


def median(measured: Sequence[Measured], by: Callable[[Measured], float]) -> float:
    """Return the median over the rounds."""
    return statistics.median(map(by, measured))


CELL_HEADINGS = ("requests/s", "p50 ms", "p99 ms", "not 2xx")


def cells(measured: Sequence[Measured], digits: int = 0) -> list[str]:
    """Return the medians of some rounds for the columns of `CELL_HEADINGS`."""
    return [
        f"{median(measured, rate):,.{digits}f}",
        f"{median(measured, lambda one: one.p50_milliseconds):.2f}",
        f"{median(measured, lambda one: one.p99_milliseconds):.2f}",
        str(sum(one.refused + one.failed for one in measured)),
    ]
