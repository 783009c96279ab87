"""One transaction: how it begins and ends, and how its connection is discarded."""

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

ROLL_BACK_SECONDS = 1.0  # a pooler whose server is gone would wait for another server
CANCEL_SECONDS = 0.2  # to send a cancellation; a frozen server accepts none
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
    """An open transaction. Statements that write can return its id, which saves a round trip."""

    connection: AsyncConnection
    id: int | None = None
    is_empty: bool = False
    """True when it writes nothing, so that it has no id."""
    isolation: str | None = None
    """Its isolation level, once it has begun."""
    driver: Driver = field(init=False)
    history: str | None = field(init=False)
    """The history of the database to which the id belongs, if it is known."""

    def __post_init__(self) -> None:
        """Keep the facts that a dead connection can no longer supply."""
        self.driver = driver_of(self.connection)
        self.history = self.driver.history

    async def begin(self, isolation: str = "READ COMMITTED") -> None:
        """Begin it with the settings that we rely on."""
        await self.driver.execute(f"BEGIN ISOLATION LEVEL {isolation}{self.driver.preamble}")
        self.isolation = isolation

    def note(self, found: asyncpg.Record) -> None:
        """Take the id and the history from the columns of `IDENTITY`."""
        self.id = None if found["transaction_id"] is None else int(found["transaction_id"])
        self.history = found["history"] or self.driver.history

    async def commit(self, *, chain: bool = False) -> None:
        """Return when it is durable. Raises `DatabaseError` if a statement in it had failed.

        `chain` also begins the next transaction on the connection, at the same isolation level.
        """
        statement = "COMMIT AND CHAIN" if chain else "COMMIT"
        if await self.driver.execute(statement) != "COMMIT":
            raise DatabaseError("the transaction had failed before COMMIT")

    async def roll_back(self) -> bool:
        """Undo it; False when the connection is dead or does not answer."""
        if self.connection.invalidated:  # SQLAlchemy has noticed that it died
            return False
        try:
            async with asyncio.timeout(ROLL_BACK_SECONDS):
                await self.driver.execute("ROLLBACK")
        except FAILURES:
            return False
        return True


async def wait_for_standby(transaction: Transaction) -> None:
    """Make the next COMMIT wait for the synchronous standbys, although nothing was changed.

    The rows that were read may come from a transaction that still waits for the standbys, or whose
    wait was interrupted. This function appends a record to the log, and COMMIT waits for everything
    before that record. Without synchronous standbys the transaction stays empty.
    """
    rows = await STANDBY_WAIT.fetch(transaction.connection, {})
    for found in rows:
        transaction.note(found)
    transaction.is_empty = not rows


async def identify(transaction: Transaction) -> None:
    """Find the id of a transaction whose statements did not return it; None if it wrote nothing."""
    if transaction.id is None and not transaction.is_empty:
        (found,) = await IDENTIFY.fetch(transaction.connection, {})
        transaction.note(found)


async def extend_timeouts(transaction: Transaction, seconds: float) -> None:
    """Set the timeouts for the rest of this transaction."""
    await _set(
        transaction.driver,
        ("statement_timeout", "idle_in_transaction_session_timeout"),
        milliseconds(seconds),
    )


async def allow_scans(connection: AsyncConnection) -> None:
    """Allow scans and hash joins for the rest of this transaction, which audits need."""
    await _set(driver_of(connection), NEVER_SCANS, "on")


async def _set(driver: Driver, names: tuple[str, ...], value: str) -> None:
    await driver.execute("; ".join(f"SET LOCAL {name} = {value}" for name in names))


async def discard(connection: AsyncConnection, cancel_seconds: float = CANCEL_SECONDS) -> None:
    """Discard a connection whose state is unknown, without waiting for the server.

    PostgreSQL is told to cancel the running statement, if that is possible at once: while it waits
    for a lock or for a standby, it would not notice that the client is gone.
    """
    if connection.closed:
        return
    try:
        with suppress(*FAILURES):
            await driver_of(connection).close(timeout=cancel_seconds)
        await connection.invalidate()
    except (*FAILURES, sqlalchemy.exc.SQLAlchemyError):
        pass  # the connection is gone already
    finally:
        await connection.close()
