"""The engine, its bounded waits, and what a failure means.

`transact` runs one unit of work in one transaction and says, when that fails, whether anything was
written: a `Conflict`, `LockTimeout` or `ConnectionLost` means nothing was; a connection that died
at COMMIT is settled on a fresh one by asking PostgreSQL what became of the transaction.

SQLAlchemy keeps the pool, writes the statements and runs those that are not in a hurry. BEGIN,
COMMIT and the ledger's own (`Statement`) go to the driver, which costs a fifth
(docs/decisions.md, 15).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

T = TypeVar("T")

NEVER_SCANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
"""Planner settings switched off on our connections: the ledger only looks keys up. A plan cached
while a table was empty must not scan it when it is full, and a nested loop in the order of its
keys is what makes every transaction lock rows in the same order. `scanning` lifts them."""

FAILURES = (
    DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Whatever a statement may end with, sent through SQLAlchemy or past it."""

CONFLICTS = {"40001": "serialization", "40P01": "deadlock"}
DEFINITE_AT_COMMIT = ("40", "23", "25", "53")  # classes in which PostgreSQL has rolled back
AWAY = ("08", "57P", "53", "25006", "58", "28", "3D", "XX", "0A000")  # the last: a plan outdated


class DatabaseError(Exception):
    """The database did not do what it was asked."""


class Conflict(DatabaseError):
    """A guard did not hold, or PostgreSQL chose us as the loser; nothing was written."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class LockTimeout(Conflict):
    """A row's lock could not be had in time; nothing was written."""

    def __init__(self) -> None:
        super().__init__("lock_timeout")


class ConnectionLost(Conflict):
    """The connection died before COMMIT was sent; nothing was written."""

    def __init__(self) -> None:
        super().__init__("connection_lost")


class Unavailable(DatabaseError):
    """The database is away, full or read-only, or no connection was free; nothing was written."""


class OutcomeUnknown(DatabaseError):
    """The connection died at COMMIT and what became of the transaction could not be read back."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long anything may wait for the database, in seconds."""

    pool: float = 0.5  # a longer queue for a connection is a hang, not patience
    connect: float = 2.0  # a frozen server accepts and then says nothing
    lock: float = 1.0  # longer than any commit of ours, short enough to split a stuck batch
    statement: float = 4.0  # the largest batch takes well under one second
    transaction: float = 5.0  # seen from here, should the server itself be frozen
    settle: float = 3.0  # to find out what became of a COMMIT


class Statement:
    """A statement with `:named` parameters that is sent past SQLAlchemy, prepared once."""

    def __init__(self, sql: str) -> None:
        compiled: Any = text(sql).compile(dialect=DIALECT)
        self.sql = str(compiled)
        self._names = tuple(compiled.positiontup)

    async def fetch(
        self, connection: AsyncConnection, parameters: Mapping[str, Any]
    ) -> list[asyncpg.Record]:
        """Run it on a connection and return its rows. Raises one of `FAILURES`."""
        values = [parameters[name] for name in self._names]
        rows: list[asyncpg.Record] = await driver_of(connection).fetch(self.sql, *values)
        return rows


DIALECT = PGDialect_asyncpg()


def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the driver's connection beneath SQLAlchemy's."""
    checked_out: Any = connection.sync_connection
    driver: asyncpg.Connection = checked_out.connection.driver_connection
    return driver


@dataclass(slots=True)
class Transaction:
    """A transaction on one connection; whoever writes leaves the transaction's id here."""

    connection: AsyncConnection
    id: int | None = None

    async def begin(self, isolation: str = "READ COMMITTED") -> None:
        """Begin it."""
        await driver_of(self.connection).execute(f"BEGIN ISOLATION LEVEL {isolation}")

    async def commit(self) -> None:
        """Return when it is durable. Raises `DatabaseError` if a statement in it had failed."""
        if await driver_of(self.connection).execute("COMMIT") != "COMMIT":
            raise DatabaseError("the transaction had failed before COMMIT")

    async def roll_back(self) -> bool:
        """Undo it; False when the connection is no longer good for that."""
        try:
            await driver_of(self.connection).execute("ROLLBACK")
        except FAILURES:
            return False
        return True


class Database:
    """A pool of connections to one PostgreSQL."""

    def __init__(self, url: str, *, pool_size: int, timeouts: Timeouts | None = None) -> None:
        self.timeouts = timeouts or Timeouts()
        self.engine = create_engine(url, pool_size, self.timeouts)

    async def transact(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        isolation: str = "READ COMMITTED",
        timeout_seconds: float | None = None,
    ) -> T:
        """Run `work` and COMMIT. Cancelling it or failing leaves nothing half done.

        `timeout_seconds` is for work that may take longer than all other.

        Raises `Conflict` (or a subclass) and `Unavailable` when nothing was written, and
        `OutcomeUnknown` when that cannot be told.
        """
        connection = await self._connect()
        transaction = Transaction(connection)
        committing = is_clean = False
        try:
            async with asyncio.timeout(timeout_seconds or self.timeouts.transaction):
                await transaction.begin(isolation)
                if timeout_seconds is not None:
                    await _allow(connection, timeout_seconds)
                result = await work(transaction)
                committing = True
                await transaction.commit()
                is_clean = True
                return result
        except FAILURES as error:
            if committing and not _rolled_back(error):
                await _discard(connection)
                if await self._committed(transaction.id):
                    return result
                raise ConnectionLost from error
            is_clean = sqlstate(error) is not None and await transaction.roll_back()
            raise self._meaning(error) from error
        except DatabaseError:
            is_clean = await transaction.roll_back()
            raise
        finally:
            if is_clean:
                await connection.close()
            else:
                await _discard(connection)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work`, which only reads, on a connection of its own. Raises `Unavailable`."""

        async def reading(transaction: Transaction) -> T:
            return await work(transaction.connection)

        try:
            return await self.transact(reading)
        except Conflict as error:
            raise Unavailable(f"a read failed: {error.kind}") from error

    async def ping(self) -> None:
        """Return when the database answers; raise `Unavailable` when it does not."""

        async def ask(connection: AsyncConnection) -> None:
            await connection.execute(text("SELECT 1"))

        await self.read(ask)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    async def _connect(self) -> AsyncConnection:
        try:
            async with asyncio.timeout(self.timeouts.pool + self.timeouts.connect):
                return await self.engine.connect()
        except sqlalchemy.exc.TimeoutError as error:
            raise Unavailable("no database connection was free in time") from error
        except FAILURES as error:
            raise Unavailable("the database cannot be reached") from error

    def _meaning(self, error: Exception) -> DatabaseError:
        """What a failure before COMMIT means. SQLSTATE is often missing when a connection dies."""
        state = sqlstate(error)
        if state in CONFLICTS:
            return Conflict(CONFLICTS[state])
        if state in ("55P03", "57014"):
            return LockTimeout()
        if isinstance(error, TimeoutError):
            return Unavailable("the database did not answer in time")
        if state == "25006":  # the primary became a standby: every pooled connection leads there
            self.engine.sync_engine.pool.dispose()
            return Unavailable("the database is read-only")
        if state is not None and state.startswith("53"):
            return Unavailable("the database has no room or no memory left")
        is_ours = isinstance(error, asyncpg.DataError)  # a value the driver can't send: a bug
        if (state is None and not is_ours) or (state or "").startswith(AWAY):
            return ConnectionLost()
        return DatabaseError(f"unexpected database error {state}")

    async def _committed(self, transaction_id: int | None) -> bool:
        """What became of a transaction whose COMMIT got no answer. Raises `OutcomeUnknown`.

        A backend may go on committing after its client is gone, so "in progress" is waited for.
        """
        if transaction_id is None:
            return True  # it wrote nothing
        try:
            async with asyncio.timeout(self.timeouts.settle):
                while True:
                    status = await self._transaction_status(transaction_id)
                    if status != "in progress":
                        break
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise OutcomeUnknown from error
        if status is None:
            raise OutcomeUnknown
        return status == "committed"

    async def _transaction_status(self, transaction_id: int) -> str | None:
        question = text("SELECT pg_xact_status(CAST(CAST(:id AS text) AS xid8))")
        while True:
            try:
                connection = await self._connect()
                try:
                    answer = await connection.execute(question, {"id": str(transaction_id)})
                    status: str | None = answer.scalar_one()
                    return status
                finally:
                    await connection.close()
            except (Unavailable, *FAILURES):
                await asyncio.sleep(0.1)  # bounded by the caller's timeout


def create_engine(url: str, pool_size: int, timeouts: Timeouts) -> AsyncEngine:
    """Build an engine whose every wait is bounded.

    asyncpg reads the URL as libpq does: several hosts, `target_session_attrs`, `sslmode`.
    """
    server_settings = {
        "application_name": "holdfast",
        "timezone": "UTC",
        "lock_timeout": _milliseconds(timeouts.lock),
        "statement_timeout": _milliseconds(timeouts.statement),
        "idle_in_transaction_session_timeout": _milliseconds(timeouts.transaction),
        "jit": "off",  # compiling costs more than any statement of ours
        "plan_cache_mode": "force_generic_plan",  # planning costs more than running them, too
        **dict.fromkeys(NEVER_SCANS, "off"),
    }

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            url.replace("postgresql+asyncpg:", "postgresql:", 1),
            timeout=timeouts.connect,
            server_settings=server_settings,
            max_cached_statement_lifetime=0,  # statements are few and stay as they are
            max_cacheable_statement_size=0,  # of any length
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are `Transaction`'s
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeouts.pool,
        pool_use_lifo=True,  # keep few connections warm rather than many lukewarm
    )


async def _allow(connection: AsyncConnection, seconds: float) -> None:
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(text(f"SET LOCAL {setting} = {_milliseconds(seconds)}"))


async def scanning(connection: AsyncConnection) -> None:
    """Let the rest of this transaction scan and hash: for audits and long lists."""
    for setting in NEVER_SCANS:
        await connection.execute(text(f"SET LOCAL {setting} = on"))


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, or None."""
    code = getattr(getattr(error, "orig", error), "sqlstate", None)
    return None if code is None else str(code)


def _rolled_back(error: Exception) -> bool:
    state = sqlstate(error)
    return state is not None and state.startswith(DEFINITE_AT_COMMIT)


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


async def _discard(connection: AsyncConnection) -> None:
    """Drop a connection whose state is not known, without waiting for the other side."""
    if connection.closed:
        return
    try:
        raw = await connection.get_raw_connection()
        if raw.driver_connection is not None:
            raw.driver_connection.terminate()
        await connection.invalidate()
    except (*FAILURES, sqlalchemy.exc.SQLAlchemyError):
        pass  # it is gone already
    finally:
        await connection.close()
