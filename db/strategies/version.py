"""`version`: every row is checked by its version, accepted takes too.

Two takes of one row collide although there is enough for both: that is what comparing it with the
default is for.
"""

from db.strategies.guard import Guard


class Version(Guard):
    """Optimistic, by version."""

    name = "version"
    pins_rows = True
