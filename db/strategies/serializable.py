"""`serializable`: PostgreSQL watches all reads and aborts one where two conflict (40001)."""

from db.strategies.strategy import Strategy


class Serializable(Strategy):
    """Serializable snapshot isolation (Cahill, Röhm, Fekete: SIGMOD 2008)."""

    name = "serializable"
    isolation = "SERIALIZABLE"
