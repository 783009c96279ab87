"""Parts that all pages of measurements share: the machine, tables, medians with their range."""

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

MADE_BY = """\
Made by `{command}` on {day}: {cores} cores and {memory:.0f} GB of
memory, shared by the load generator (wrk), the services and PostgreSQL 18 (fsync and
synchronous_commit on), Python {python}, load average {load} at the start."""


def load_average() -> str:
    """Return the load average of the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def command_line(target: str) -> str:
    """Return the `make` command that repeats this run."""
    arguments = shlex.join(sys.argv[1:])
    return f"make {target} ARGS='{arguments}'" if arguments else f"make {target}"


def made_by(command: str, load: str) -> str:
    """Return the sentence that names the command, the day and the machine of a page."""
    return MADE_BY.format(
        command=command,
        day=time.strftime("%Y-%m-%d"),
        cores=os.cpu_count(),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        python=platform.python_version(),
        load=load,
    )


def spread(values: Sequence[float]) -> str:
    """Return the median of ratios, with the smallest and the largest one in brackets."""
    return f"{statistics.median(values):.2f} x ({min(values):.2f} to {max(values):.2f})"


def markdown(headings: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """Return a table for a page."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table)])


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table without lines between columns, so that ten columns fit into 80 characters."""
    table = Table(*headings, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
