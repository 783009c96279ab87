"""`make bench-pooler`: PgBouncer in transaction mode, compared with direct connections.

Two services run on one PostgreSQL and are loaded in turn.
"""

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cases import HOLDFAST, POOLED, Case
from bench.load import Load, check_wrk
from bench.page import load_average
from bench.rounds import CELL_HEADINGS, Results, cells, measure, rate
from bench.stand import Stand, seed, serve
from tests.brokers import running_pgbouncer

SESSIONS = 20  # PgBouncer's own default
BOTH = (HOLDFAST, POOLED)
CASES = (
    Case("1 SKU, 64 connections", Load(), BOTH),
    Case("1,000 SKUs, 64 connections", Load(skus=1_000), BOTH),
    Case("1,000 SKUs, 1 connection", Load(skus=1_000, connections=1), BOTH),
)


def main() -> None:
    """Measure both services in turn and print a table."""
    parser = argparse.ArgumentParser(prog="bench.pooler", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    check_wrk()
    load_before = load_average()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        Path(directory).chmod(0o755)
        stand = Stand()
        serve(stack, stand, HOLDFAST, Path(directory) / "direct")
        seed(stand, 1_000)
        pooler = running_pgbouncer(stand.database_url(), default_pool_size=SESSIONS)
        pooled = stack.enter_context(pooler)
        serve(stack, stand, POOLED, Path(directory) / "pooled", database_url=pooled)
        results = measure(stand, CASES, options.rounds, options.seconds)
    console = Console()
    console.print(table(results))
    console.print(f"load average at the start {load_before}")


def table(results: Results) -> Table:
    """Return the figures of each case, and the pooled rate as a share of the direct one."""
    shown = Table("case", "service", *CELL_HEADINGS, "of the direct one")
    for case in CASES:
        direct = results[case.name, HOLDFAST]
        for name in BOTH:
            rounds = results[case.name, name]
            shares = [rate(one) / rate(other) for one, other in zip(rounds, direct, strict=True)]
            share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
            shown.add_row(case.name, name, *cells(rounds), share if name == POOLED else "")
    return shown


if __name__ == "__main__":
    main()
