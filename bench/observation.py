"""What a service and its hot table look like at one moment."""

import os
from dataclasses import dataclass
from pathlib import Path

import asyncpg

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

STOCK = """
    SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup, autovacuum_count, pg_table_size(relid)
    FROM pg_stat_user_tables WHERE relname = 'stock'
"""


@dataclass(frozen=True, slots=True)
class StockTable:
    """The table of the hot rows: updates since it was made, dead rows and bytes as of now."""

    updates: int
    hot_updates: int
    """Updates that touched no index."""
    dead_rows: int
    autovacuums: int
    table_bytes: int


async def observe_stock(url: str) -> StockTable:
    """Ask PostgreSQL's statistics, which are a second old at most."""
    connection = await asyncpg.connect(url)
    try:
        return StockTable(*await connection.fetchrow(STOCK))
    finally:
        await connection.close()


def find_workers(supervisor_id: int) -> list[int]:
    """Return the process ids of a service's workers: forks that have the supervisor's command."""
    command = _read(supervisor_id, "cmdline")
    children = _read(supervisor_id, f"task/{supervisor_id}/children").split()
    return [int(child) for child in children if _read(int(child), "cmdline") == command]


def resident_bytes(process_id: int) -> int:
    """Return how much of a process lies in memory, what it shares with its parent included."""
    return int(_read(process_id, "statm").split()[1]) * PAGE_BYTES


def _read(process_id: int, name: str) -> str:
    return Path(f"/proc/{process_id}/{name}").read_text()
