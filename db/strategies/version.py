"""`version`: every row is checked by its version, also where the plan accepted a take.

Two takes of one row collide even if there are enough units for both. The comparison with the
default strategy shows the cost of that.
"""

from db.strategies.strategy import Strategy


class Version(Strategy):
    """Optimistic, by version."""

    name = "version"
    pins_rows = True
