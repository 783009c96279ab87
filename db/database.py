"""Transactions, and what a failure means.

`transact` runs one unit of work in one transaction and says, when that fails, whether anything was
written: a `Conflict`, `LockTimeout` or `ConnectionLost` means nothing was; a connection that died
at COMMIT is settled on a fresh one by asking PostgreSQL what became of the transaction, if that is
still the server of that transaction, and by waiting until its standby has it too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.engine import (
    FAILURES,
    NEVER_SCANS,
    POOL_IS_DEAD,
    Statement,
    Timeouts,
    create_engine,
    driver_of,
    milliseconds,
    sqlstate,
)

T = TypeVar("T")

CONFLICTS = {"40001": "serialization", "40P01": "deadlock"}
CANCEL_SECONDS = 0.2  # for a cancellation to be sent; a frozen server takes none
CHAIN_SECONDS = 0.05  # a chained transaction is taken at once, or its caller has changed its mind
DEFINITE_AT_COMMIT = ("40", "23", "25", "53")  # classes in which PostgreSQL has rolled back
AWAY = ("08", "57P", "53", "25006", "58", "28", "3D", "XX", "0A000")  # the last: a plan outdated
STANDBY_WAIT = Statement("""
    SELECT pg_logical_emit_message(true, 'holdfast', ''), CAST(pg_current_xact_id() AS text) AS id
    WHERE current_setting('synchronous_standby_names') <> ''
""")


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

    def __init__(self) -> None:
        super().__init__("the connection died at COMMIT, and it is not known whether it was done")


@dataclass(slots=True)
class Transaction:
    """A transaction under way; who writes in a hurry leaves the transaction's id here."""

    connection: AsyncConnection
    id: int | None = None
    is_empty: bool = False
    """Nothing is written, so there is no id to be asked for."""
    isolation: str | None = None
    """The level at which it has begun."""

    @property
    def history(self) -> str | None:
        """The history of the database to which the id belongs, if that can be told."""
        history: str | None = self.connection.info.get("history")
        return history

    async def begin(self, isolation: str = "READ COMMITTED") -> None:
        """Begin it."""
        await driver_of(self.connection).execute(f"BEGIN ISOLATION LEVEL {isolation}")
        self.isolation = isolation

    async def commit(self, *, chain: bool = False) -> None:
        """Return when it is durable. Raises `DatabaseError` if a statement in it had failed.

        With `chain` the next transaction on the connection has begun by then, at the same level.
        """
        statement = "COMMIT AND CHAIN" if chain else "COMMIT"
        if await driver_of(self.connection).execute(statement) != "COMMIT":
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
        self._trusted_since = 0.0
        """Connections made before that moment may lead to a server that hangs or is no primary."""
        self._chained: Transaction | None = None
        """Begun by the COMMIT before it, for whoever comes next."""
        self._letting_go: set[asyncio.Task[None]] = set()

    async def transact(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        isolation: str = "READ COMMITTED",
        timeout_seconds: float | None = None,
        chain_if: Callable[[], bool] | None = None,
    ) -> T:
        """Run `work` and COMMIT. Cancelling it or failing leaves nothing half done.

        `timeout_seconds` is for work that may take longer than all other. `chain_if`, asked before
        COMMIT, says that the caller comes back at once: then COMMIT begins the next transaction,
        too, which saves a round trip.

        Raises `Conflict` (or a subclass) and `Unavailable` when nothing was written, and
        `OutcomeUnknown` when that cannot be told.
        """
        transaction = None if chain_if is None else self._take_chained(isolation)
        if transaction is None:
            transaction = Transaction(await self._connect())
        connection = transaction.connection
        history = transaction.history  # a connection that died knows it no longer
        committing = chained = is_clean = False
        try:
            async with asyncio.timeout(timeout_seconds or self.timeouts.transaction):
                if transaction.isolation is None:
                    await transaction.begin(isolation)
                if timeout_seconds is not None:
                    await _allow(connection, timeout_seconds)
                result = await work(transaction)
                await _identify(transaction)
                committing = True
                chains = chain_if is not None and chain_if()
                await transaction.commit(chain=chains)
                is_clean, chained = True, chains
                return result
        except FAILURES as error:
            if isinstance(error, TimeoutError) or sqlstate(error) in POOL_IS_DEAD:
                self._trusted_since = time.monotonic()
            if committing and not _rolled_back(error):
                await _discard(connection)
                if transaction.id is None or await self._committed(transaction.id, history):
                    return result
                raise ConnectionLost from error
            is_clean = sqlstate(error) is not None and await transaction.roll_back()
            raise self._meaning(error) from error
        except DatabaseError:
            is_clean = await transaction.roll_back()
            raise
        finally:
            if chained:
                self._chain(Transaction(connection, isolation=isolation))
            elif is_clean:
                await connection.close()
            else:
                await _discard(connection)

    def _chain(self, transaction: Transaction) -> None:
        """Keep a transaction that has begun for whoever comes next, who is about to come."""
        if self._chained is not None:
            self._let_go(self._chained)
        self._chained = transaction
        asyncio.get_running_loop().call_later(CHAIN_SECONDS, self._unchain, transaction)

    def _take_chained(self, isolation: str) -> Transaction | None:
        transaction, self._chained = self._chained, None
        if transaction is None:
            return None
        made_at = transaction.connection.info["made_at"]
        if transaction.isolation == isolation and made_at >= self._trusted_since:
            return transaction
        self._let_go(transaction)
        return None

    def _unchain(self, transaction: Transaction) -> None:
        """Let go of a transaction for which nobody came."""
        if self._chained is transaction:
            self._chained = None
            self._let_go(transaction)

    def _let_go(self, transaction: Transaction) -> None:
        task = asyncio.create_task(_end(transaction))
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work`, which only reads, on a connection of its own. Raises `Unavailable`."""

        async def reading(transaction: Transaction) -> T:
            transaction.is_empty = True
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
        if self._chained is not None:
            self._unchain(self._chained)
        if self._letting_go:
            await asyncio.wait(self._letting_go)
        await self.engine.dispose()

    async def _connect(self) -> AsyncConnection:
        try:
            async with asyncio.timeout(self.timeouts.pool + self.timeouts.connect):
                connection = await self.engine.connect()
                while connection.info["made_at"] < self._trusted_since:
                    await _discard(connection, cancel_seconds=0)  # nothing is under way
                    connection = await self.engine.connect()
                return connection
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
        if state == "25006":
            return Unavailable("the database is read-only")
        if state is not None and state.startswith("53"):
            return Unavailable("the database has no room or no memory left")
        is_bug = isinstance(error, asyncpg.DataError)  # a value that the driver can't send
        if (state is None and not is_bug) or (state or "").startswith(AWAY):
            return ConnectionLost()
        return DatabaseError(f"unexpected database error {state}")

    async def _committed(self, transaction_id: int, history: str | None) -> bool:
        """What became of a transaction whose COMMIT got no answer. Raises `OutcomeUnknown`.

        A backend may go on committing after its client is gone, so "in progress" is waited for.
        """
        if history is None:
            raise OutcomeUnknown
        try:
            async with asyncio.timeout(self.timeouts.settle):
                status = await self._ask(transaction_id, history)
                while status == "in progress":
                    await asyncio.sleep(0.02)
                    status = await self._ask(transaction_id, history)
        except TimeoutError as error:
            raise OutcomeUnknown from error
        if status is None:
            raise OutcomeUnknown
        return status == "committed"

    async def _ask(self, transaction_id: int, history: str) -> str | None:
        """The transaction's status, asked until the database answers; the caller bounds it."""
        while True:
            try:
                connection = await self._connect()
            except Unavailable:
                await asyncio.sleep(0.1)
                continue
            is_clean = False
            try:
                status = await _status(Transaction(connection), transaction_id, history)
                is_clean = True
            except FAILURES:
                await asyncio.sleep(0.1)
            else:
                return status
            finally:
                await (connection.close() if is_clean else _discard(connection))


async def _end(transaction: Transaction) -> None:
    """End a transaction in which nothing was done."""
    is_clean = False
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            is_clean = await transaction.roll_back()
    except TimeoutError:
        pass
    await (transaction.connection.close() if is_clean else _discard(transaction.connection))


async def _status(transaction: Transaction, transaction_id: int, history: str | None) -> str | None:
    """The status of another transaction; None where its id may mean another one."""
    if transaction.history != history:
        return None
    await transaction.begin()
    answer = await transaction.connection.execute(
        text("SELECT pg_xact_status(CAST(CAST(:id AS text) AS xid8))"), {"id": str(transaction_id)}
    )
    status: str | None = answer.scalar_one()
    if status == "committed":  # here, but perhaps not yet on the standby
        await wait_for_standby(transaction)
    await transaction.commit()
    return status


async def wait_for_standby(transaction: Transaction) -> None:
    """Make the COMMIT to come wait for the synchronous standbys, though nothing was changed.

    What was read may be the work of a transaction that is still waiting there, or whose wait was
    cut short; this puts a record behind its own in the log, and a COMMIT waits for all that is
    before it. Without synchronous standbys the transaction stays empty.
    """
    rows = await STANDBY_WAIT.fetch(transaction.connection, {})
    transaction.id = int(rows[0]["id"]) if rows else None
    transaction.is_empty = not rows


async def _identify(transaction: Transaction) -> None:
    """Find the id of what has written without leaving one; without an id nothing was written."""
    if transaction.id is None and not transaction.is_empty:
        question = text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
        found = (await transaction.connection.execute(question)).scalar_one()
        transaction.id = None if found is None else int(found)


async def _allow(connection: AsyncConnection, seconds: float) -> None:
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(text(f"SET LOCAL {setting} = {milliseconds(seconds)}"))


async def scanning(connection: AsyncConnection) -> None:
    """Let the rest of this transaction scan and hash: for audits and long lists."""
    for setting in NEVER_SCANS:
        await connection.execute(text(f"SET LOCAL {setting} = on"))


def _rolled_back(error: Exception) -> bool:
    state = sqlstate(error)
    return state is not None and state.startswith(DEFINITE_AT_COMMIT)


async def _discard(connection: AsyncConnection, cancel_seconds: float = CANCEL_SECONDS) -> None:
    """Drop a connection whose state is not known, without waiting for the other side.

    PostgreSQL is told to cancel what is under way on it, if that can be done at once: it would not
    notice that the client is gone while it waits for a lock or for a standby.
    """
    if connection.closed:
        return
    try:
        with suppress(*FAILURES):
            await driver_of(connection).close(timeout=cancel_seconds)
        await connection.invalidate()
    except (*FAILURES, sqlalchemy.exc.SQLAlchemyError):
        pass  # it is gone already
    finally:
        await connection.close()
