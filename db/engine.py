"""The engine: its bounded waits, and which history of the database a connection belongs to."""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.exceptions import CannotConnectNowError, TargetServerAttributeNotMatched
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

NEVER_SCANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
"""Planner settings switched off on our connections: the ledger only looks keys up. A plan cached
while a table was empty must not scan it when it is full, and a nested loop in the order of its
keys is what makes every transaction lock rows in the same order. `scanning` lifts them."""

POOL_IS_DEAD = ("25006", "57P01", "57P02", "57P03")
"""The server became a standby or goes down: every connection of the pool leads to the same one."""

HISTORY = """
    SELECT concat_ws('/', system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
                     (SELECT stats_reset FROM pg_stat_bgwriter))
    FROM pg_control_system() WHERE NOT pg_is_in_recovery()
"""
"""Which cluster, on which timeline, since which crash: a transaction's id means nothing beyond.

A promotion begins another timeline, on which the id may be another transaction's. So it may be
after a crash: PostgreSQL gives an id out again if nothing of its transaction had reached the disk;
and it resets its statistics then, but not at an orderly restart. A standby has no history to go
by, for it may be promoted under a connection.
"""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long anything may wait for the database, in seconds."""

    pool: float = 0.5  # a longer queue for a connection is a hang, not patience
    connect: float = 2.0  # a frozen server accepts and then says nothing
    lock: float = 1.0  # longer than any commit of ours, short enough to split a stuck batch
    statement: float = 4.0  # the largest batch takes well under one second
    transaction: float = 5.0  # seen from here, should the server itself be frozen
    settle: float = 3.0  # to find out what became of a COMMIT


def create_engine(url: str, pool_size: int, timeouts: Timeouts) -> AsyncEngine:
    """Build an engine whose every wait is bounded.

    asyncpg reads the URL as libpq does: several hosts, `target_session_attrs`, `sslmode`. Of
    several hosts the one that can be written to is meant, unless the URL says otherwise.
    """
    server_settings = {
        "application_name": "holdfast",
        "timezone": "UTC",
        "lock_timeout": milliseconds(timeouts.lock),
        "statement_timeout": milliseconds(timeouts.statement),
        "idle_in_transaction_session_timeout": milliseconds(timeouts.transaction),
        "jit": "off",  # compiling costs more than any statement of ours
        "plan_cache_mode": "force_generic_plan",  # planning costs more than running them, too
        **dict.fromkeys(NEVER_SCANS, "off"),
    }

    urls = _urls(url.replace("postgresql+asyncpg:", "postgresql:", 1))

    async def connect() -> asyncpg.Connection:
        for place, each in enumerate(urls, start=1):
            try:
                return await asyncpg.connect(
                    each,
                    timeout=timeouts.connect / len(urls),
                    server_settings=server_settings,
                    target_session_attrs=None
                    if "target_session_attrs" in each
                    else SessionAttribute.read_write,
                )
            except (OSError, TimeoutError, TargetServerAttributeNotMatched, CannotConnectNowError):
                if place == len(urls):
                    raise
        raise AssertionError("a URL names at least one host")

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeouts.pool,
        pool_use_lifo=True,  # keep few connections warm rather than many lukewarm
    )
    event.listen(engine.sync_engine, "connect", _note_history)
    event.listen(engine.sync_engine, "handle_error", _distrust_pool)
    return engine


def _urls(url: str) -> list[str]:
    """The URL once for each of its hosts, so that one that hangs leaves time for the others.

    Whoever says which kind of server is wanted leaves the choice to asyncpg.
    """
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts or "target_session_attrs" in url:
        return [url]
    return [parts._replace(netloc=f"{credentials}{at}{host}").geturl() for host in hosts.split(",")]


def _note_history(raw: Any, record: ConnectionPoolEntry) -> None:
    record.info["made_at"] = time.monotonic()
    record.info["history"] = raw.run_async(lambda driver: driver.fetchval(HISTORY))


def _distrust_pool(context: ExceptionContext) -> None:
    """Have every connection that was made before now replaced, once its server is no longer it."""
    if getattr(context.original_exception, "sqlstate", None) in POOL_IS_DEAD:
        context.is_disconnect = True


def milliseconds(seconds: float) -> str:
    """Return a duration as PostgreSQL's settings want it."""
    return str(int(seconds * 1000))
