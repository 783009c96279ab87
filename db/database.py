"""Transactions, and what a failure means.

`transact` runs one unit of work in one transaction and says, when that fails, whether anything was
written: a `Conflict`, `LockTimeout` or `ConnectionLost` means nothing was; a connection that died
at COMMIT is settled on a fresh one by asking PostgreSQL what became of the transaction, if that is
still the server of that transaction, and by waiting until its standby has it too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.engine import FAILURES, POOL_IS_DEAD, Timeouts, create_engine, sqlstate
from db.failures import (
    Conflict,
    ConnectionLost,
    DatabaseError,
    LockTimeout,
    OutcomeUnknown,
    Unavailable,
    has_rolled_back,
    meaning_of,
)
from db.transaction import (
    Transaction,
    allow,
    discard,
    end,
    identify,
    scanning,
    wait_for_standby,
)

__all__ = [
    "Conflict",
    "ConnectionLost",
    "Database",
    "DatabaseError",
    "LockTimeout",
    "OutcomeUnknown",
    "Transaction",
    "Unavailable",
    "scanning",
    "wait_for_standby",
]

T = TypeVar("T")

CHAIN_SECONDS = 0.05  # a chained transaction is taken at once, or its caller has changed its mind


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
                    await allow(connection, timeout_seconds)
                result = await work(transaction)
                await identify(transaction)
                committing = True
                chains = chain_if is not None and chain_if()
                await transaction.commit(chain=chains)
                is_clean, chained = True, chains
                return result
        except FAILURES as error:
            if isinstance(error, TimeoutError) or sqlstate(error) in POOL_IS_DEAD:
                self._trusted_since = time.monotonic()
            if committing and not has_rolled_back(error):
                await discard(connection)
                if transaction.id is None or await self._committed(transaction.id, history):
                    return result
                raise ConnectionLost from error
            is_clean = sqlstate(error) is not None and await transaction.roll_back()
            raise meaning_of(error) from error
        except DatabaseError:
            is_clean = await transaction.roll_back()
            raise
        finally:
            if chained:
                self._chain(Transaction(connection, isolation=isolation))
            elif is_clean:
                await connection.close()
            else:
                await discard(connection)

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
        task = asyncio.create_task(end(transaction))
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
                    await discard(connection, cancel_seconds=0)  # nothing is under way
                    connection = await self.engine.connect()
                return connection
        except sqlalchemy.exc.TimeoutError as error:
            raise Unavailable("no database connection was free in time") from error
        except FAILURES as error:
            raise Unavailable("the database cannot be reached") from error

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
                await (connection.close() if is_clean else discard(connection))


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
