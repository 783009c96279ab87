"""One transaction under way: how it begins and ends, and how its connection is dropped."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session.configuration import IDENTITY, NEVER_SCANS, NOTED_HISTORY, milliseconds
from db.session.driver import Driver
from db.session.engine import Statement, driver_of
from db.session.failures import FAILURES, DatabaseError

ROLL_BACK_SECONDS = 1.0  # a pooler whose server has gone would wait for another one
CANCEL_SECONDS = 0.2  # for a cancellation to be sent; a frozen server takes none
STANDBY_WAIT = Statement(f"""
    SELECT pg_logical_emit_message(true, 'holdfast', ''), {IDENTITY}
    WHERE current_setting('synchronous_standby_names') <> ''
""")
IDENTIFY = Statement(f"""
    SELECT CAST(pg_current_xact_id_if_assigned() AS text) AS transaction_id,
           {NOTED_HISTORY} AS history
""")


@dataclass(slots=True)
class Transaction:
    """A transaction under way; who writes in a hurry leaves the transaction's id here."""

    connection: AsyncConnection
    id: int | None = None
    is_empty: bool = False
    """Nothing is written, so there is no id to be asked for."""
    isolation: str | None = None
    """The level at which it has begun."""
    driver: Driver = field(init=False)
    history: str | None = field(init=False)
    """The history of the database to which the id belongs, if that can be told."""

    def __post_init__(self) -> None:
        """Remember what a connection that died knows no longer."""
        self.driver = driver_of(self.connection)
        self.history = self.driver.history

    async def begin(self, isolation: str = "READ COMMITTED") -> None:
        """Begin it, with what we rely on in force."""
        await self.driver.execute(f"BEGIN ISOLATION LEVEL {isolation}{self.driver.preamble}")
        self.isolation = isolation

    def note(self, found: asyncpg.Record) -> None:
        """Take the id and the history from the columns of `IDENTITY`."""
        self.id = None if found["transaction_id"] is None else int(found["transaction_id"])
        self.history = found["history"] or self.driver.history

    async def commit(self, *, chain: bool = False) -> None:
        """Return when it is durable. Raises `DatabaseError` if a statement in it had failed.

        With `chain` the next transaction on the connection has begun by then, at the same level.
        """
        statement = "COMMIT AND CHAIN" if chain else "COMMIT"
        if await self.driver.execute(statement) != "COMMIT":
            raise DatabaseError("the transaction had failed before COMMIT")

    async def roll_back(self) -> bool:
        """Undo it; False when the connection is no longer good for that, or does not answer."""
        if self.connection.invalidated:  # SQLAlchemy saw it die
            return False
        try:
            async with asyncio.timeout(ROLL_BACK_SECONDS):
                await self.driver.execute("ROLLBACK")
        except FAILURES:
            return False
        return True


async def wait_for_standby(transaction: Transaction) -> None:
    """Make the COMMIT to come wait for the synchronous standbys, though nothing was changed.

    What was read may be the work of a transaction that is still waiting there, or whose wait was
    cut short; this puts a record behind its own in the log, and a COMMIT waits for all that is
    before it. Without synchronous standbys the transaction stays empty.
    """
    rows = await STANDBY_WAIT.fetch(transaction.connection, {})
    for found in rows:
        transaction.note(found)
    transaction.is_empty = not rows


async def identify(transaction: Transaction) -> None:
    """Find the id of what has written without leaving one; without an id nothing was written."""
    if transaction.id is None and not transaction.is_empty:
        (found,) = await IDENTIFY.fetch(transaction.connection, {})
        transaction.note(found)


async def extend_timeouts(transaction: Transaction, seconds: float) -> None:
    """Let the rest of this transaction take so long."""
    await _set(
        transaction.driver,
        ("statement_timeout", "idle_in_transaction_session_timeout"),
        milliseconds(seconds),
    )


async def allow_scans(connection: AsyncConnection) -> None:
    """Let the rest of this transaction scan and hash: for audits and long lists."""
    await _set(driver_of(connection), NEVER_SCANS, "on")


async def _set(driver: Driver, names: tuple[str, ...], value: str) -> None:
    await driver.execute("; ".join(f"SET LOCAL {name} = {value}" for name in names))


async def discard(connection: AsyncConnection, cancel_seconds: float = CANCEL_SECONDS) -> None:
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
