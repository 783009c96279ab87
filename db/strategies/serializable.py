"""`serializable`: PostgreSQL watches what was read and chooses a loser (40001, run again)."""

from db.strategies.guard import Guard


class Serializable(Guard):
    """Serializable snapshot isolation (Cahill, Röhm, Fekete: SIGMOD 2008)."""

    name = "serializable"
    isolation = "SERIALIZABLE"
