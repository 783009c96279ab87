"""Observes a service: its workers, their memory and the statistics of its hot table."""

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
    """Statistics of the stock table: updates since its creation, current dead rows and bytes."""

    updates: int
    hot_updates: int
    """Updates that changed no index."""
    dead_rows: int
    autovacuums: int
    table_bytes: int


async def observe_stock(url: str) -> StockTable:
    """Read PostgreSQL's statistics, which are at most a second old."""
    connection = await asyncpg.connect(url)
    try:
        return StockTable(*await connection.fetchrow(STOCK))
    finally:
        await connection.close()


def find_workers(supervisor_id: int) -> list[int]:
    """Return the process ids of a service's workers: children with the supervisor's command."""
    command = _read(supervisor_id, "cmdline")
    children = _read(supervisor_id, f"task/{supervisor_id}/children").split()
    return [int(child) for child in children if _read(int(child), "cmdline") == command]


def resident_bytes(process_id: int) -> int:
    """Return the resident memory of a process, including memory shared with its parent."""
    return int(_read(process_id, "statm").split()[1]) * PAGE_BYTES


def _read(process_id: int, name: str) -> str:
    return Path(f"/proc/{process_id}/{name}").read_text()
