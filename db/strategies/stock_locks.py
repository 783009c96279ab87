"""The stock rows that a batch may change, read before it begins, and the names of their locks.

A reservation needs no lock of its own: a change of it also changes its stock rows.
"""

from urllib.parse import quote

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.load import WANTED_KEYS, key_parameters
from db.rows import StockKey, Wanted
from db.session.database import Database

STOCK_KEYS = text(WANTED_KEYS)
DEAD_HOLDER_SECONDS = 5.0  # after this time the locks of a dead holder are free


def lock_name(key: StockKey) -> str:
    """Return the name of a stock row's lock, safe in a path; two keys never share one."""
    return f"stock:{quote(key[0], safe='')}:{quote(key[1], safe='')}"


async def keys_to_lock(database: Database, wanted: Wanted) -> list[StockKey]:
    """Return the stock rows that a batch may change, with those of its reservations, in order.

    A lock outside the database is taken before the transaction begins, so this is read before it.
    """

    async def ask(connection: AsyncConnection) -> list[StockKey]:
        rows = await connection.execute(STOCK_KEYS, key_parameters(wanted))
        return sorted((row.sku, row.location) for row in rows)

    return await database.read(ask, is_urgent=True)
