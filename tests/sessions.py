"""Transactions that a test begins and ends itself, in addition to those of the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from db.session.database import Database, Transaction


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[Transaction]:
    """Begin a transaction on a new connection; roll it back unless the block commits it."""
    async with database.engine.connect() as connection:
        transaction = Transaction(connection)
        await transaction.begin()
        try:
            yield transaction
        finally:
            await transaction.roll_back()
