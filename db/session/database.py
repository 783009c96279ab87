"""Runs work in transactions and reports after a failure whether anything was written.

`transact` runs one unit of work in one transaction. After a `Conflict`, `LockTimeout` or
`ConnectionLost` nothing was written. If the connection dies at COMMIT, a fresh connection asks
PostgreSQL for the outcome of the transaction. The answer counts only if the same server gives it
and has not crashed since, and only when its standby has the transaction too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session.address import read_address
from db.session.configuration import NOTED_HISTORY, Timeouts
from db.session.connector import Connector
from db.session.engine import create_engine
from db.session.failures import (
    FAILURES,
    POOL_IS_DEAD,
    CommitUnknown,
    Conflict,
    ConnectionLost,
    DatabaseError,
    LockTimeout,
    StoreUnavailable,
    has_rolled_back,
    meaning_of,
    sqlstate,
)
from db.session.pool import Pool
from db.session.transaction import (
    Transaction,
    allow_scans,
    extend_timeouts,
    identify,
    wait_for_standby,
)

__all__ = [
    "AsyncConnection",
    "CommitUnknown",
    "Conflict",
    "ConnectionLost",
    "Database",
    "DatabaseError",
    "LockTimeout",
    "StoreUnavailable",
    "Timeouts",
    "Transaction",
    "allow_scans",
    "wait_for_standby",
]

T = TypeVar("T")

CHAIN_SECONDS = 0.05  # a chained transaction is used at once; after this time it is given up
IDLE_SECONDS = 5.0  # then BEGIN gets a shorter timeout, because proxies forget silent connections


class Database:
    """A pool of connections to one PostgreSQL. Raises `AddressError`."""

    def __init__(self, url: str, *, pool_size: int, timeouts: Timeouts | None = None) -> None:
        self.timeouts = timeouts or Timeouts()
        self.connector = Connector(read_address(url), self.timeouts)
        self.engine = create_engine(self.connector)
        self.pool = Pool(self.engine, pool_size, self.timeouts)
        self._chained: Transaction | None = None
        """A transaction that the previous COMMIT has begun for the next caller."""
        self._letting_go: set[asyncio.Task[None]] = set()

    async def transact(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        isolation: str = "READ COMMITTED",
        timeout_seconds: float | None = None,
        chain_if: Callable[[], bool] | None = None,
        is_read: bool = False,
    ) -> T:
        """Run `work` and COMMIT. After a cancellation or a failure nothing is half done.

        `timeout_seconds` is for work that may take longer than usual. `chain_if` is called before
        COMMIT and returns True if the caller needs a transaction again at once; then COMMIT also
        begins the next transaction, which saves a round trip. With `is_read` the work uses only
        the part of the pool that reads may use.

        Raises `Conflict` (or a subclass) and `StoreUnavailable` when nothing was written, and
        `CommitUnknown` when the outcome can't be determined.
        """
        transaction = None if chain_if is None else self._take_chained(isolation)
        if transaction is None:
            transaction = await self._begin(isolation, is_read=is_read)
        committing = chained = is_clean = is_gone = False
        try:
            async with asyncio.timeout(timeout_seconds or self.timeouts.transaction):
                if timeout_seconds is not None:
                    await extend_timeouts(transaction, timeout_seconds)
                result = await work(transaction)
                await identify(transaction)
                committing = True
                chains = chain_if is not None and self._may_chain(transaction) and chain_if()
                await transaction.commit(chain=chains)
                is_clean, chained = True, chains
                return result
        except FAILURES as error:
            if isinstance(error, TimeoutError) or sqlstate(error) in POOL_IS_DEAD:
                self.pool.distrust()
            if committing and not has_rolled_back(error):
                is_gone = True
                await self.pool.drop(transaction.connection, is_read=is_read)
                if transaction.id is None or await self._committed(transaction):
                    return result
                raise ConnectionLost from error
            is_clean = sqlstate(error) is not None and await transaction.roll_back()
            raise meaning_of(error) from error
        except DatabaseError:
            is_clean = await transaction.roll_back()
            raise
        finally:
            if chained:
                self._chain(Transaction(transaction.connection, isolation=isolation))
            elif not is_gone:
                await self._release(transaction, is_clean=is_clean, is_read=is_read)

    async def _begin(self, isolation: str, *, is_read: bool = False) -> Transaction:
        """Begin on a live connection; a connection that died while idle is replaced."""
        connection = transaction = None
        try:
            async with asyncio.timeout(self.timeouts.pool + self.timeouts.connect):
                while transaction is None:
                    connection = None
                    connection = await self.pool.take(is_read=is_read)
                    transaction = await self._begin_on(connection, isolation, is_read)
                return transaction
        except FAILURES as error:
            if connection is not None and isinstance(error, TimeoutError):  # BEGIN got no answer
                self.pool.distrust()
            raise StoreUnavailable("the database is unreachable") from error

    async def _begin_on(
        self, connection: AsyncConnection, isolation: str, is_read: bool
    ) -> Transaction | None:
        """Begin on a connection; None if the connection died while it was idle.

        In that case all older connections count as dead, so that none of them is tried.
        """
        transaction = Transaction(connection)
        used_at = transaction.driver.used_at
        is_stale = used_at is not None and time.monotonic() - used_at > IDLE_SECONDS
        has_begun = False
        try:
            async with asyncio.timeout(self.timeouts.check if is_stale else None):
                await transaction.begin(isolation)
            has_begun = True
        except FAILURES as error:
            if used_at is None:
                raise meaning_of(error) from error
            self.pool.distrust()
            return None
        finally:
            if not has_begun:
                await self.pool.drop(connection, is_read=is_read)
        return transaction

    async def _release(
        self, transaction: Transaction, *, is_clean: bool, is_read: bool = False
    ) -> None:
        let_go = self.pool.give_back if is_clean else self.pool.drop
        await let_go(transaction.connection, is_read=is_read)

    def _may_chain(self, transaction: Transaction) -> bool:
        """Return whether the next transaction may begin on the same connection.

        It may not while others wait for a connection. In a shared session COMMIT ends both our
        hold on the session and the settings that came with BEGIN.
        """
        return not (self.pool.has_queue or transaction.driver.is_shared)

    def _chain(self, transaction: Transaction) -> None:
        """Keep a transaction that has begun for the next caller, which is expected at once."""
        if self._chained is not None:
            self._let_go(self._chained)
        self._chained = transaction
        asyncio.get_running_loop().call_later(CHAIN_SECONDS, self._unchain, transaction)

    def _take_chained(self, isolation: str) -> Transaction | None:
        transaction, self._chained = self._chained, None
        if transaction is None:
            return None
        if transaction.isolation == isolation and self.pool.trusts(transaction.connection):
            return transaction
        self._let_go(transaction)
        return None

    def _unchain(self, transaction: Transaction) -> None:
        """Give up a transaction that no caller has used."""
        if self._chained is transaction:
            self._chained = None
            self._let_go(transaction)

    def _let_go(self, transaction: Transaction) -> None:
        task = asyncio.create_task(self._end(transaction))
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)

    async def _end(self, transaction: Transaction) -> None:
        """End a transaction in which no work was done."""
        await self._release(transaction, is_clean=await transaction.roll_back())

    async def read(
        self,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        is_urgent: bool = False,
        isolation: str = "READ COMMITTED",
        timeout_seconds: float | None = None,
    ) -> T:
        """Run `work`, which only reads, and run it once more if its connection dies.

        Reads use half of the pool at most, so that many reads do not delay the writes. `is_urgent`
        exempts a read from that limit, because writes wait for its result.

        Raises `StoreUnavailable`.
        """

        async def reading(transaction: Transaction) -> T:
            transaction.is_empty = True
            return await work(transaction.connection)

        async def attempt() -> T:
            return await self.transact(
                reading,
                isolation=isolation,
                timeout_seconds=timeout_seconds,
                is_read=not is_urgent,
            )

        seconds_max = self.timeouts.pool + self.timeouts.connect
        seconds_max += timeout_seconds or self.timeouts.transaction
        try:
            async with asyncio.timeout(seconds_max):
                try:
                    return await attempt()
                except ConnectionLost:
                    return await attempt()
        except TimeoutError as error:
            raise StoreUnavailable("the database did not answer in time") from error
        except Conflict as error:
            raise StoreUnavailable(f"a read failed: {error.kind}") from error

    async def ping(self) -> None:
        """Return when the database answers; raise `StoreUnavailable` when it does not."""

        async def ask(connection: AsyncConnection) -> None:
            await connection.execute(text("SELECT 1"))

        await self.read(ask, is_urgent=True)

    async def close(self) -> None:
        """Close every connection."""
        if self._chained is not None:
            self._unchain(self._chained)
        if self._letting_go:
            await asyncio.wait(self._letting_go)
        await self.pool.close()

    async def _committed(self, transaction: Transaction) -> bool:
        """Return whether a transaction whose COMMIT got no answer was committed.

        A backend can continue to commit after its client is gone, so "in progress" is asked again.
        Raises `CommitUnknown`.
        """
        if transaction.history is None:
            raise CommitUnknown
        try:
            async with asyncio.timeout(self.timeouts.settle):
                status = await self._ask(transaction)
                while status == "in progress":
                    await asyncio.sleep(0.02)
                    status = await self._ask(transaction)
        except TimeoutError as error:
            raise CommitUnknown from error
        if status is None:
            raise CommitUnknown
        return status == "committed"

    async def _ask(self, lost: Transaction) -> str | None:
        """Ask for the status until the database answers; the caller limits the time."""
        while True:
            try:
                transaction = await self._begin("READ COMMITTED")
            except DatabaseError:
                await asyncio.sleep(0.1)
                continue
            is_clean = False
            try:
                status = await _status(transaction, lost)
                is_clean = True
            except FAILURES:
                await asyncio.sleep(0.1)
            else:
                return status
            finally:
                await self._release(transaction, is_clean=is_clean)


async def _status(transaction: Transaction, lost: Transaction) -> str | None:
    """Return the status of a lost transaction; None if its id may belong to another one now."""
    if await _history(transaction) != lost.history:
        await transaction.commit()
        return None
    answer = await transaction.connection.execute(
        text("SELECT pg_xact_status(CAST(CAST(:id AS text) AS xid8))"), {"id": str(lost.id)}
    )
    status: str | None = answer.scalar_one()
    if status == "committed":  # on this server, but perhaps not yet on its standby
        await wait_for_standby(transaction)
    await transaction.commit()
    return status


async def _history(transaction: Transaction) -> str | None:
    if not transaction.driver.is_shared:
        return transaction.driver.history
    noted = await transaction.connection.execute(text(f"SELECT {NOTED_HISTORY}"))
    history: str | None = noted.scalar_one() or None
    return history
