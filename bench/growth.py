"""`make bench-growth`: the effect of stored data on the speed of requests.

Two databases are on one PostgreSQL (fsync and synchronous_commit on), each with its own service.
One is almost empty, the other is filled with the data of years. Both get the same loads in turn,
round by round.
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.cases import EMPTY, GROWN, Case
from bench.filling import FillingProgress, fill, sizes
from bench.load import Load, check_wrk, load
from bench.options import measurement_parser
from bench.page import command_line, load_average, made_by, markdown, show, spread
from bench.rounds import CELL_HEADINGS, Results, cells, figures, measure, rate
from bench.stand import Stand, serve
from db.embedded.roles import Role
from db.migrate import upgrade
from db.session.database import Database

EMPTY_SKUS = 10_000
AT_LEAST = 0.85
HOT, MANY = "one hot SKU", f"{EMPTY_SKUS:,} SKUs"

GOAL_HEADINGS = ("load", "goal", "grown / empty")
HEADINGS = ("load", "database", *CELL_HEADINGS)
SIZE_HEADINGS = ("database", "table", "rows", "MB", "MB of indexes")
RESERVATIONS = "SELECT count(*) FROM reservation"
CHECKPOINTS = "SELECT num_timed + num_requested FROM pg_stat_checkpointer"

PAGE = """# Growth

{made_by}

Does a full database make Holdfast slower? Two databases are on one PostgreSQL, each with its own
`holdfast serve`. *Empty* has {empty_skus:,} SKUs. *Grown* has {skus:,} SKUs and {reservations:,}
stored reservations, each with a line and a movement, and its books balance. Only ratios are
meaningful, and only within this run: both are loaded in turn, {rounds} rounds of {seconds} seconds
each, from 64 connections. Figures are medians; a ratio has its smallest and largest value in
brackets.

{goals}

{table}

Before the first round, both databases are loaded for {warm_up} seconds over all their SKUs, which
does not count. After a checkpoint, each page is logged as a whole when it is first changed, and a
large database has more pages to change. A running service pays this once per checkpoint, every 15
minutes. Checkpoints during the rounds: {checkpoints}. The reservations of the load are stored too:
*empty* ended with {empty_reservations:,} reservations, *grown* with {grown_reservations:,}.

On disk before the rounds, vacuumed, with freshly built indexes:

{sizes}
"""


@dataclass(slots=True)
class Growth:
    """The results of the measurements."""

    results: Results = field(default_factory=dict)
    sizes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The sizes of the tables of each database."""
    checkpoints: int = 0
    """The number of checkpoints during the rounds."""
    reservations: dict[str, int] = field(default_factory=dict)
    """The number of reservations of each database at the end."""


def main() -> None:
    """Fill both databases, measure, and print the tables."""
    options = _options()
    check_wrk()
    load_before = load_average()
    cases = loads(options.skus)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        stand, urls = start(stack, Path(directory), options)
        growth = Growth(sizes={name: asyncio.run(sizes(url)) for name, url in urls.items()})
        warm_up(stand, cases, options.warm_up_seconds)
        checkpoints = asyncio.run(_ask(stand.database_url(), CHECKPOINTS))
        growth.results = measure(stand, cases, options.rounds, options.seconds)
        growth.checkpoints = asyncio.run(_ask(stand.database_url(), CHECKPOINTS)) - checkpoints
        growth.reservations = {
            name: asyncio.run(_ask(url, RESERVATIONS)) for name, url in urls.items()
        }
    show(GOAL_HEADINGS, goals(growth.results))
    show(HEADINGS, rows(growth.results))
    show(SIZE_HEADINGS, size_rows(growth))
    if options.json:
        everything = asdict(growth) | {"results": figures(growth.results)}
        options.json.write_text(json.dumps(everything, indent=2))
    if options.report:
        options.report.write_text(page(growth, options, load_before))


def _options() -> argparse.Namespace:
    parser = measurement_parser("bench.growth", __doc__, rounds=7, seconds=5)
    parser.add_argument("--skus", type=int, default=1_000_000)
    parser.add_argument("--reservations", type=int, default=5_000_000)
    parser.add_argument("--warm-up-seconds", type=int, default=60)
    return parser.parse_args()


def loads(skus: int) -> tuple[Case, ...]:
    """Return the loads of both databases, and the load that needs the SKUs of the large one."""
    return (
        Case(HOT, Load(), (GROWN, EMPTY)),
        Case(MANY, Load(skus=EMPTY_SKUS), (GROWN, EMPTY)),
        Case(f"all {skus:,} SKUs", Load(skus=skus), (GROWN,)),
    )


def start(
    stack: contextlib.ExitStack, directory: Path, options: argparse.Namespace
) -> tuple[Stand, dict[str, str]]:
    """Start the services on their filled databases; return them and the databases' addresses.

    The addresses are those of the superuser, because filling drops the indexes.
    """
    stand = Stand()
    serve(stack, stand, EMPTY, directory)  # also starts PostgreSQL
    urls = {EMPTY: stand.database_url(Role.SUPERUSER)}
    asyncio.run(_create(stand, GROWN))
    urls[GROWN] = stand.database_url(Role.SUPERUSER)
    with filling_bars() as told:
        asyncio.run(fill(urls[EMPTY], EMPTY_SKUS, 0, told(EMPTY)))
        asyncio.run(fill(urls[GROWN], options.skus, options.reservations, told(GROWN)))
    serve(stack, stand, GROWN, directory / GROWN)
    return stand, urls


async def _create(stand: Stand, name: str) -> None:
    """Create and migrate another database, and make it the stand's database."""
    connection = await asyncpg.connect(stand.database_url(Role.SUPERUSER))
    await connection.execute(f"CREATE DATABASE {name} OWNER {Role.MIGRATING}")
    await connection.close()
    stand.database = name
    database = Database(stand.database_url(), pool_size=1)
    await upgrade(database, stand.database_url(Role.MIGRATING))
    await database.close()


async def _ask(url: str, select: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(select))
    finally:
        await connection.close()


@contextlib.contextmanager
def filling_bars() -> Iterator[Any]:
    """Show a progress bar for each step; yield a function that returns a database's callback."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bars: dict[str, Any] = {}

        def of(database: str) -> FillingProgress:
            def told(step: str, done: int, total: int) -> None:
                name = f"{database}: {step}"
                if name not in bars:
                    bars[name] = progress.add_task(name)
                progress.update(bars[name], completed=done, total=total)

            return told

        yield of


def warm_up(stand: Stand, cases: tuple[Case, ...], seconds: int) -> None:
    """Load both databases before the rounds: the first change of a page logs the whole page."""
    for case in cases[1:]:
        name = case.services[-1]
        with Console(stderr=True).status(f"warming up {name}"):
            prefix = f"warm-up-{name}"
            load(stand.urls[name], key=stand.key, prefix=prefix, sent=case.sent, seconds=seconds)


def ratios(results: Results, case: str) -> list[float]:
    """Return the rate of grown divided by the rate of empty, for each round.

    A load that only grown gets is compared with the load of all SKUs of empty.
    """
    against = case if (case, EMPTY) in results else MANY
    pairs = zip(results[case, GROWN], results[against, EMPTY], strict=True)
    return [rate(grown) / rate(empty) for grown, empty in pairs]


def goals(results: Results) -> list[list[str]]:
    """Return a row for each load with its goal and the measured ratio."""
    return [
        [
            case if (case, EMPTY) in results else f"{case}, against {MANY}",
            f"{AT_LEAST:g} x",
            spread(ratios(results, case)),
        ]
        for case, name in results
        if name == GROWN
    ]


def rows(results: Results) -> list[list[str]]:
    """Return a row for each load and database: the medians."""
    return [[case, name, *cells(measured)] for (case, name), measured in results.items()]


def size_rows(growth: Growth) -> list[list[str]]:
    """Return a row for each table of each database."""
    return [
        [
            name,
            table["table"],
            f"{table['rows']:,}",
            f"{table['heap_bytes'] / 1e6:,.1f}",
            f"{table['index_bytes'] / 1e6:,.1f}",
        ]
        for name, tables in growth.sizes.items()
        for table in tables
    ]


def page(growth: Growth, options: argparse.Namespace, load_before: str) -> str:
    """Return the text of the page."""
    return PAGE.format(
        made_by=made_by(command_line("bench-growth"), load_before),
        empty_skus=EMPTY_SKUS,
        skus=options.skus,
        reservations=options.reservations,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=options.warm_up_seconds,
        checkpoints=growth.checkpoints,
        empty_reservations=growth.reservations[EMPTY],
        grown_reservations=growth.reservations[GROWN],
        goals=markdown(GOAL_HEADINGS, goals(growth.results)),
        table=markdown(HEADINGS, rows(growth.results)),
        sizes=markdown(SIZE_HEADINGS, size_rows(growth)),
    )


if __name__ == "__main__":
    main()
