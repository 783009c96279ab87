"""Which stock rows a batch may change, asked before it begins, and the names of their locks.

A reservation needs no lock of its own: whoever changes it changes its stock rows too.
"""

from urllib.parse import quote

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.load import WANTED_KEYS, key_parameters
from db.rows import Key, Wanted
from db.session.database import Database

STOCK_KEYS = text(WANTED_KEYS)
DEAD_HOLDER_SECONDS = 5.0  # after that time the locks of a dead holder are free


def name_of(key: Key) -> str:
    """Return a stock row's name, safe in a path; two keys never share one."""
    return f"stock:{quote(key[0], safe='')}:{quote(key[1], safe='')}"


async def keys_of(database: Database, wanted: Wanted) -> list[Key]:
    """Return the stock rows a batch may change, those its reservations hold too, in one order.

    A lock outside the database must be taken before the transaction, so this must be asked before.
    """

    async def ask(connection: AsyncConnection) -> list[Key]:
        rows = await connection.execute(STOCK_KEYS, key_parameters(wanted))
        return sorted((row.sku, row.location) for row in rows)

    return await database.read(ask, is_urgent=True)
