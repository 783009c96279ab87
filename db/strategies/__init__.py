"""How load and apply keep others out: one module for each strategy, one interface for all."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from db.database import Transaction
from db.rows import Snapshot, Wanted, Writes
from db.strategies.guard import Guard


class Strategy(Protocol):
    """What the ledger asks of a strategy."""

    name: str
    isolation: str

    def hold(self, wanted: Wanted) -> AbstractAsyncContextManager[None]:
        """Keep others out from before the transaction until after it."""

    async def load(self, connection: AsyncConnection, wanted: Wanted, *, locked: bool) -> Snapshot:
        """Return the snapshot, its rows locked if `locked` or if the strategy always does."""

    async def apply(self, transaction: Transaction, writes: Writes) -> None:
        """Write everything or raise `Conflict`."""


STRATEGIES: dict[str, type[Strategy]] = {"guard": Guard}
