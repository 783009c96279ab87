"""The names under which locks outside the rows are taken, and which of them a batch needs."""

from collections.abc import Iterable
from urllib.parse import quote
from uuid import UUID

from db.database import Database
from db.reads import load
from db.rows import Key, Wanted


def names_of(reservations: Iterable[UUID], stock: Iterable[Key]) -> set[str]:
    """Return a name for each reservation and stock row, safe in a path."""
    return {f"reservation:{id_}" for id_ in reservations} | {name_of(key) for key in stock}


def name_of(key: Key) -> str:
    """Return a stock row's name; two keys never share one."""
    return f"stock:{quote(key[0], safe='')}:{quote(key[1], safe='')}"


async def keys_of(database: Database, wanted: Wanted) -> set[Key]:
    """Return the stock rows a batch may change: those it names and those its reservations hold.

    A lock outside the database must be taken before the transaction, so this must be asked before.
    """
    snapshot = await database.read(lambda connection: load(connection, wanted))
    return wanted.stock | set(snapshot.stock)
