"""`guard`, the default: read without locks, and let the guarded update decide."""

from db.strategies.strategy import Strategy


class Guard(Strategy):
    """Optimistic, by condition: an accepted take succeeds if there are still enough units."""

    name = "guard"
