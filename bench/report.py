"""The results of `make bench`: medians, ratios with their range, goals, and the page."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.cases import (
    BARE,
    CAREFUL,
    CASES,
    FOUR_WORKERS,
    HOLDFAST,
    LIMITED,
    LIMITED_TWO,
    SERVICES,
    STATEMENT,
    TEXTBOOK,
    TWO_WORKERS,
)
from bench.load import Measured
from bench.page import made_by, markdown, spread
from bench.rounds import CELL_HEADINGS, Results, cells, median, rate
from service.lab import svg

HEADINGS = ("case", "service", *CELL_HEADINGS, "holdfast is")
GOAL_HEADINGS = ("goal", "asked", "measured")
SIZES = {case.name: case.sent.batch for case in CASES}

PAGE = """# Benchmarks

{made_by}

Only ratios are meaningful, and only within this run. The services of a comparison run side by side
and are loaded in turn, {rounds} rounds of {seconds} seconds each. Figures are medians; a ratio has
its smallest and largest value in brackets. A case without another number has 64 connections.

{goals}

Where a goal is missed, [profile.md](profile.md#why-some-goals-are-missed) explains why. Other
measurements have their own pages: [latency and floods](benchmarks/latency.md),
[growth](benchmarks/growth.md), [ten minutes on one row](benchmarks/endurance.md),
[attacks](benchmarks/attacks.md).

![Requests a second on one hot SKU]({plot})

{table}

{services}
"""


def inverse_latency(one: Measured) -> float:
    """Return the inverse of the median latency, of which more is better, as of a rate."""
    return 1 / one.p50_milliseconds


@dataclass(frozen=True, slots=True)
class Goal:
    """A line of the table of goals: a ratio of two measurements and its goal."""

    name: str
    at_least: float
    ours: tuple[str, str]
    theirs: tuple[str, str]
    by: Callable[[Measured], float] = rate

    def ratios(self, results: Results) -> list[float]:
        """Return the ratio of each round; a batch counts as the number of its reservations."""
        factor = SIZES[self.ours[0]] / SIZES[self.theirs[0]]
        return [
            factor * self.by(mine) / self.by(other)
            for mine, other in zip(results[self.ours], results[self.theirs], strict=True)
        ]


HOT, MANY, IDLE = "hot, 64 connections", "10,000 SKUs", "idle: one connection"
BATCH, FEW = "batches of 1,000", "10,000 SKUs, 2 connections"
GOALS = (
    Goal("one hot SKU, against the bare route", 0.85, (HOT, HOLDFAST), (HOT, BARE)),
    Goal("10,000 SKUs, against the bare route", 0.75, (MANY, HOLDFAST), (MANY, BARE)),
    Goal("one hot SKU, against the textbook", 12, (HOT, HOLDFAST), (HOT, TEXTBOOK)),
    Goal("one hot SKU, against careful asyncpg", 4.5, (HOT, HOLDFAST), (HOT, CAREFUL)),
    Goal("batches, against singles on 64 connections", 8, (BATCH, HOLDFAST), (HOT, HOLDFAST)),
    Goal(
        "batches, against singles on 2 connections",
        8,
        (BATCH, HOLDFAST),
        (FEW, HOLDFAST),
    ),
    Goal("batches, against the bare statement", 0.5, (BATCH, HOLDFAST), (BATCH, STATEMENT)),
    Goal(
        "idle: p50 of the textbook to ours",
        1.3,
        (IDLE, HOLDFAST),
        (IDLE, TEXTBOOK),
        inverse_latency,
    ),
    Goal(
        "4 workers against 1, one hot SKU",
        0.9,
        ("hot, more workers", FOUR_WORKERS),
        ("hot, more workers", HOLDFAST),
    ),
    Goal(
        "a source with limits against one without",
        0.9,
        ("holds, one SKU", LIMITED),
        ("holds, one SKU", HOLDFAST),
    ),
    Goal(
        "the same with 2 workers",
        0.9,
        ("holds, one SKU, more workers", LIMITED_TWO),
        ("holds, one SKU, more workers", TWO_WORKERS),
    ),
    Goal(
        "the same with 2 workers, 10,000 SKUs",
        0.9,
        ("holds, 10,000 SKUs, more workers", LIMITED_TWO),
        ("holds, 10,000 SKUs, more workers", TWO_WORKERS),
    ),
)


def rows(results: Results) -> list[list[str]]:
    """Return a row for each case and service: medians and the ratio to Holdfast."""
    return [_row(case, name, results) for case, name in results]


def goals(results: Results) -> list[list[str]]:
    """Return a row for each goal that was measured."""
    return [
        [goal.name, f"{goal.at_least:g} x", spread(goal.ratios(results))]
        for goal in GOALS
        if {goal.ours, goal.theirs} <= results.keys()
    ]


def write(path: Path, results: Results, command: str, rounds: int, seconds: int, load: str) -> None:
    """Write the page, and its plot next to it."""
    plot = path.with_suffix(".svg")
    hot = {
        name: median(measured, rate) for (case, name), measured in results.items() if case == HOT
    }
    plot.write_text(svg.bars("requests a second, one hot SKU", list(hot), {"": list(hot.values())}))
    path.write_text(
        PAGE.format(
            made_by=made_by(command, load),
            table=markdown(HEADINGS, rows(results)),
            goals=markdown(GOAL_HEADINGS, goals(results)),
            services="\n".join(
                f"- **{name}**: {text}."
                for name, text in SERVICES.items()
                if any(name == measured for _, measured in results)
            ),
            plot=plot.name,
            rounds=rounds,
            seconds=seconds,
        )
    )


def _row(case: str, name: str, results: Results) -> list[str]:
    measured = results[case, name]
    ratios = [
        rate(mine) / rate(other)
        for mine, other in zip(results[case, HOLDFAST], measured, strict=True)
    ]
    return [
        case,
        name,
        *cells(measured, 0 if SIZES[case] == 1 else 1),
        "" if name == HOLDFAST else spread(ratios),
    ]
