"""The engine: its bounded waits, and which history of the database a connection belongs to.

SQLAlchemy keeps the pool, writes the statements and runs those that are not in a hurry. BEGIN,
COMMIT and the ledger's own (`Statement`) go straight to the driver, which costs a fifth
(docs/decisions.md, 15).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.exceptions import CannotConnectNowError, TargetServerAttributeNotMatched
from sqlalchemy import event, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

NEVER_SCANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
"""Planner settings switched off on our connections: the ledger only looks keys up. A plan cached
while a table was empty must not scan it when it is full, and a nested loop in the order of its
keys is what makes every transaction lock rows in the same order. `scanning` lifts them."""

FAILURES = (
    DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    TargetServerAttributeNotMatched,
    OSError,
    TimeoutError,
)
"""Whatever connecting or a statement may end with, through SQLAlchemy or past it."""

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
                    max_cached_statement_lifetime=0,  # statements are few and stay as they are
                    max_cacheable_statement_size=0,  # of any length
                )
            except (OSError, TimeoutError, TargetServerAttributeNotMatched, CannotConnectNowError):
                if place == len(urls):
                    raise
        raise AssertionError("a URL names at least one host")

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are `Transaction`'s
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeouts.pool,
        pool_use_lifo=True,  # keep few connections warm rather than many lukewarm
    )
    event.listen(engine.sync_engine, "connect", _note_origin)
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


def _note_origin(raw: Any, record: ConnectionPoolEntry) -> None:
    record.info["made_at"] = time.monotonic()
    record.info["history"] = raw.run_async(lambda driver: driver.fetchval(HISTORY))


class Statement:
    """A statement with `:named` parameters that is sent past SQLAlchemy, prepared once."""

    def __init__(self, sql: str) -> None:
        self.text = sql
        compiled: Any = text(sql).compile(dialect=DIALECT)
        self._sent = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup)

    async def fetch(
        self, connection: AsyncConnection, parameters: Mapping[str, Any]
    ) -> list[asyncpg.Record]:
        """Run it on a connection and return its rows. Raises one of `FAILURES`."""
        values = [parameters[name] for name in self._names]
        rows: list[asyncpg.Record] = await driver_of(connection).fetch(self._sent, *values)
        return rows


DIALECT: Any = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types here


def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the driver's connection beneath SQLAlchemy's."""
    checked_out: Any = connection.sync_connection
    driver: asyncpg.Connection = checked_out.connection.driver_connection
    return driver


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error, SQLAlchemy's or the driver's, or None."""
    code = getattr(getattr(error, "orig", error), "sqlstate", None)
    return None if code is None else str(code)


def milliseconds(seconds: float) -> str:
    """Return a duration as PostgreSQL's settings want it."""
    return str(int(seconds * 1000))
