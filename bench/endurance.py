"""`make bench-endurance`: one hot row for minutes, one worker, all settings at their defaults.

A long run shows whether dead versions of the row accumulate, the table grows, or a worker keeps
memory for each request.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bench.cases import HOLDFAST
from bench.load import Load, Measured, check_wrk, load
from bench.observation import StockTable, find_workers, observe_stock, resident_bytes
from bench.options import output_file
from bench.page import command_line, load_average, made_by, markdown, show
from bench.stand import Stand, seed, serve
from db.queries.audit import Audit, audit
from db.session.database import Database
from service.lab import svg

MINUTE_SECONDS = 60
SETTLED_AFTER = 100_000  # requests: by then imports, pools and caches are in memory
MANY = 1_000_000
RATE_AT_LEAST = 0.95
HOT_AT_LEAST = 0.99
MEMORY_MB_BELOW = 150
GROWTH_BYTES_BELOW = 10  # per request: less than a seq, so no part of a request is kept
AUDIT_SECONDS_MAX = 600

GOAL_HEADINGS = ("goal", "asked", "measured")
HEADINGS = (
    "after s",
    "answered",
    "requests/s",
    "p99 ms",
    "memory MB",
    "dead rows",
    "stock table KB",
    "HOT",
    "vacuums",
)
ROWS_MAX = 30  # of a page's table; the plot and --json have every slice

PAGE = """# Endurance

{made_by}

One stock row takes reservations from {connections} connections for {minutes:g} minutes, through one
worker, on the private PostgreSQL with its default settings. The load comes in slices of {seconds}
seconds. After each slice, the page notes the worker's resident memory (including the memory that it
shares with its parent) and PostgreSQL's statistics of `stock`. *HOT* is the share of updates so far
that changed no index. *Vacuums* is the number of runs of autovacuum.

{goals}

![Requests a second and memory over time]({plot})

{table}

{books}
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """A slice of load, and the memory and the statistics right after it."""

    answered: int
    """Requests since the start."""
    measured: Measured
    memory_bytes: int
    """The worker's memory."""
    stock: StockTable


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of all samples."""

    minute: int
    """The number of slices in the first and the last minute; in a short run, half of all."""
    last_to_first: float
    unwanted: int
    """Answers that were not 2xx, and requests without an answer."""
    hot_share: float
    answered: int
    """Requests at the moment of `memory_bytes`: `MANY`, or all if there were fewer."""
    memory_bytes: int
    grown_bytes: int
    """From `SETTLED_AFTER` requests to the end."""
    grown_per_request: float


def main() -> None:
    """Load for some minutes, take a sample after each slice, audit, and print the tables."""
    options = _options()
    check_wrk()
    load_before = load_average()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        stand = Stand()
        serve(stack, stand, HOLDFAST, Path(directory))
        seed(stand, 1)
        samples = endure(stand, round(60 * options.minutes / options.seconds), options.seconds)
        with Console(stderr=True).status("auditing"):
            books = asyncio.run(check_books(stand.database_url()))
    show(GOAL_HEADINGS, goals(summarize(samples, options.seconds)))
    show(HEADINGS, rows(samples, options.seconds))
    Console().print(balance(books))
    if options.json:
        everything = {"drift": books.drift, "samples": [asdict(sample) for sample in samples]}
        options.json.write_text(json.dumps(everything, indent=2))
    if options.report:
        write(options.report, samples, books, options, load_before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=int, default=10, help="length of a slice")
    parser.add_argument("--json", type=output_file, help="write every slice's figures here")
    parser.add_argument("--report", type=output_file, help="write a page with a plot here")
    options = parser.parse_args()
    if 60 * options.minutes < 2 * options.seconds:
        parser.error("--minutes must be long enough for two slices of --seconds")
    return options


def endure(stand: Stand, slices: int, seconds: int) -> list[Sample]:
    """Load one row, slice after slice; each slice has its own seqs."""
    (worker,) = find_workers(stand.process_ids[HOLDFAST])
    samples: list[Sample] = []
    answered = 0
    for number in track(range(slices), "measuring"):
        prefix = f"slice-{number}"
        measured = load(
            stand.urls[HOLDFAST], key=stand.key, prefix=prefix, sent=Load(), seconds=seconds
        )
        answered += measured.answered
        stock = asyncio.run(observe_stock(stand.database_url()))
        samples.append(Sample(answered, measured, resident_bytes(worker), stock))
    return samples


async def check_books(url: str) -> Audit:
    """Audit all written data."""
    database = Database(url, pool_size=1)
    try:
        return await audit(database, seconds_max=AUDIT_SECONDS_MAX)
    finally:
        await database.close()


def summarize(samples: Sequence[Sample], seconds: int) -> Summary:
    """Return the results of two or more slices."""
    minute = max(1, min(MINUTE_SECONDS // seconds, len(samples) // 2))
    rates = [sample.measured.requests_per_second for sample in samples]
    settled, many, last = _after(samples, SETTLED_AFTER), _after(samples, MANY), samples[-1]
    grown = last.memory_bytes - settled.memory_bytes
    return Summary(
        minute=minute,
        last_to_first=statistics.mean(rates[-minute:]) / statistics.mean(rates[:minute]),
        unwanted=sum(sample.measured.refused + sample.measured.failed for sample in samples),
        hot_share=last.stock.hot_updates / last.stock.updates,
        answered=many.answered,
        memory_bytes=many.memory_bytes,
        grown_bytes=grown,
        grown_per_request=grown / max(1, last.answered - settled.answered),
    )


def _after(samples: Sequence[Sample], requests: int) -> Sample:
    """Return the first sample after that many requests, or the last sample."""
    return next((sample for sample in samples if sample.answered >= requests), samples[-1])


def goals(summary: Summary) -> list[list[str]]:
    """Return a row for each goal with the measured value."""
    return [
        [
            "requests a second, the last minute against the first",
            f"at least {RATE_AT_LEAST:g} x",
            f"{summary.last_to_first:.2f} x",
        ],
        ["answers that are not 2xx", "none", f"{summary.unwanted}"],
        ["HOT updates of stock", f"at least {HOT_AT_LEAST:.0%}", f"{summary.hot_share:.2%}"],
        [
            f"memory of the worker after {MANY:,} requests",
            f"below {MEMORY_MB_BELOW} MB",
            f"{summary.memory_bytes / 1e6:.1f} MB after {summary.answered:,}",
        ],
        [
            f"growth of that from {SETTLED_AFTER:,} requests to the end",
            f"below {GROWTH_BYTES_BELOW} bytes a request",
            f"{summary.grown_per_request:.1f} bytes a request, {summary.grown_bytes / 1e6:.1f} MB",
        ],
    ]


def rows(samples: Sequence[Sample], seconds: int) -> list[list[str]]:
    """Return a row for each slice; for a long run only some of them, including the last."""
    step = -(-len(samples) // ROWS_MAX)
    chosen = range(len(samples) - 1, -1, -step)
    return [_row(samples[index], (index + 1) * seconds) for index in reversed(chosen)]


def _row(sample: Sample, after_seconds: int) -> list[str]:
    measured, stock = sample.measured, sample.stock
    return [
        f"{after_seconds}",
        f"{sample.answered:,}",
        f"{measured.requests_per_second:,.0f}",
        f"{measured.p99_milliseconds:.2f}",
        f"{sample.memory_bytes / 1e6:.1f}",
        f"{stock.dead_rows:,}",
        f"{stock.table_bytes / 1e3:,.0f}",
        f"{stock.hot_updates / max(1, stock.updates):.2%}",
        f"{stock.autovacuums}",
    ]


def balance(books: Audit) -> str:
    """Return a sentence with the result of the audit."""
    verdict = "balance" if not books.drift else f"DO NOT BALANCE: {books.drift[0]}"
    return f"The books {verdict}: {books.reservations:,} reservations were audited at the end."


def write(
    path: Path, samples: Sequence[Sample], books: Audit, options: argparse.Namespace, load: str
) -> None:
    """Write the page, and its plot next to it."""
    plot = path.with_suffix(".svg")
    plot.write_text(draw(samples, options.seconds))
    path.write_text(
        PAGE.format(
            made_by=made_by(command_line("bench-endurance"), load),
            connections=Load().connections,
            minutes=options.minutes,
            seconds=options.seconds,
            goals=markdown(GOAL_HEADINGS, goals(summarize(samples, options.seconds))),
            plot=plot.name,
            table=markdown(HEADINGS, rows(samples, options.seconds)),
            books=balance(books),
        )
    )


def draw(samples: Sequence[Sample], seconds: int) -> str:
    """Return the plot of requests per second and memory, both from zero."""
    series = {
        "requests a second": [sample.measured.requests_per_second for sample in samples],
        "the worker's memory in MB": [sample.memory_bytes / 1e6 for sample in samples],
    }
    return svg.lines("One hot row, over time", seconds, series, shares_scale=False)


if __name__ == "__main__":
    main()
