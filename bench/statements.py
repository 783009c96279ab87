"""`make bench-statements`: PostgreSQL's work for a reservation, counted by pg_stat_statements.

Time is that of the server, without parsing, planning and the network, and without the flush to disk
that follows the statement COMMIT. Figures are per reservation unless the column names another unit.
"""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from bench.cases import HOLDFAST
from bench.load import SKUS_MAX, Load, check_wrk, load
from bench.page import show
from bench.stand import Stand, seed, serve
from db.embedded.server import EmbeddedPostgres

COUNTING = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}
HEADINGS = (
    "skus", "statement", "calls", "reservations each", "µs each", "µs", "WAL bytes", "WAL records",
)  # fmt: skip
KINDS = """
    SELECT CASE WHEN query LIKE 'WITH%INTO reservation %' THEN 'apply'
                WHEN query LIKE 'COMMIT%' THEN 'COMMIT'
                WHEN query LIKE 'BEGIN%' THEN 'BEGIN'
                WHEN query LIKE '%FROM api_key%' THEN 'key'
                WHEN query LIKE '%AS wanted%' THEN 'load'
                ELSE 'other' END AS kind,
           sum(calls)::bigint AS calls, 1000 * sum(total_exec_time) AS microseconds,
           sum(wal_bytes)::bigint AS wal_bytes, sum(wal_records)::bigint AS wal_records
    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
    WHERE datname = current_database()
    GROUP BY kind ORDER BY microseconds DESC
"""


def main() -> None:
    """Load one SKU, then many, and print the time of each statement."""
    parser = argparse.ArgumentParser(prog="bench.statements", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--skus", type=int, nargs="+", default=[1, 10_000])
    options = parser.parse_args()
    check_wrk()
    table: list[list[str]] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(EmbeddedPostgres(directory / "pg", settings=COUNTING))
        stand = Stand(addresses=postgres.addresses)
        url = postgres.addresses.superuser  # other roles may not reset the statistics
        serve(stack, stand, HOLDFAST, directory)
        seed(stand, SKUS_MAX)
        for skus in options.skus:
            sent = Load(skus=skus)
            load(stand.urls[HOLDFAST], key=stand.key, prefix=f"warm{skus}", sent=sent, seconds=3)
            asyncio.run(ask(url, "SELECT pg_stat_statements_reset()"))
            measured = load(
                stand.urls[HOLDFAST],
                key=stand.key,
                prefix=f"{skus}",
                sent=sent,
                seconds=options.seconds,
            )
            table += rows(skus, measured.answered, asyncio.run(ask(url, KINDS)))
    show(HEADINGS, table)


async def ask(url: str, statement: str) -> list[asyncpg.Record]:
    """Run one statement and return its rows."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


def rows(skus: int, reservations: int, kinds: Sequence[asyncpg.Record]) -> list[list[str]]:
    """Return a row for each kind of statement."""
    return [
        [
            f"{skus:,}",
            row["kind"],
            f"{row['calls']:,}",
            f"{reservations / row['calls']:.1f}",
            f"{row['microseconds'] / row['calls']:,.0f}",
            f"{row['microseconds'] / reservations:.1f}",
            f"{row['wal_bytes'] / reservations:,.0f}",
            f"{row['wal_records'] / reservations:.2f}",
        ]
        for row in kinds
    ]


if __name__ == "__main__":
    main()
