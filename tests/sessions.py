"""Sessions beside the service's own: transactions that a test begins and ends by itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from db.session.database import Database, Transaction


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[Transaction]:
    """A transaction on a connection of its own; what the block does not commit is undone."""
    async with database.engine.connect() as connection:
        transaction = Transaction(connection)
        await transaction.begin()
        try:
            yield transaction
        finally:
            await transaction.roll_back()
