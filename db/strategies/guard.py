"""`guard`, the default: read without locks, and let the guarded update decide."""

from db.strategies.strategy import Strategy


class Guard(Strategy):
    """Optimistic, by condition: an accepted take holds as long as there are enough units."""

    name = "guard"
