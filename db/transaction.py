"""One transaction under way: how it begins and ends, and how its connection is dropped."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.engine import FAILURES, NEVER_SCANS, Statement, driver_of, milliseconds
from db.failures import DatabaseError

CANCEL_SECONDS = 0.2  # for a cancellation to be sent; a frozen server takes none
STANDBY_WAIT = Statement("""
    SELECT pg_logical_emit_message(true, 'holdfast', ''), CAST(pg_current_xact_id() AS text) AS id
    WHERE current_setting('synchronous_standby_names') <> ''
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
        if self.connection.invalidated:  # SQLAlchemy saw it die, and has no driver to ask now
            return False
        try:
            await driver_of(self.connection).execute("ROLLBACK")
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
    transaction.id = int(rows[0]["id"]) if rows else None
    transaction.is_empty = not rows


async def identify(transaction: Transaction) -> None:
    """Find the id of what has written without leaving one; without an id nothing was written."""
    if transaction.id is None and not transaction.is_empty:
        question = text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
        found = (await transaction.connection.execute(question)).scalar_one()
        transaction.id = None if found is None else int(found)


async def allow(connection: AsyncConnection, seconds: float) -> None:
    """Let the rest of this transaction take so long."""
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(text(f"SET LOCAL {setting} = {milliseconds(seconds)}"))


async def scanning(connection: AsyncConnection) -> None:
    """Let the rest of this transaction scan and hash: for audits and long lists."""
    for setting in NEVER_SCANS:
        await connection.execute(text(f"SET LOCAL {setting} = on"))


async def end(transaction: Transaction) -> None:
    """End a transaction in which nothing was done."""
    is_clean = False
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            is_clean = await transaction.roll_back()
    except TimeoutError:
        pass
    await (transaction.connection.close() if is_clean else discard(transaction.connection))


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
