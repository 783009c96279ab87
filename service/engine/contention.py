"""The class of the stock for which a race was lost: hot or cold, for the metrics.

Only lost races are counted, so a service without conflicts has no cost.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Literal

from db.rows import StockKey

SkuClass = Literal["hot", "cold", "none"]

HOT_LOSSES = 3  # within HOT_SECONDS: one is chance, and the second can be its retry
HOT_SECONDS = 1.0
ROWS_MAX = 10_000  # remembered; if so many different rows are lost, none is hot


class LostRows:
    """The stock rows for which this process has lost races recently."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lost: dict[StockKey, deque[float]] = {}

    def classify(self, keys: Collection[StockKey]) -> SkuClass:
        """Note that a transaction that names these rows lost a race; return the class of the rows.

        `hot`: within `HOT_SECONDS`, `HOT_LOSSES` lost transactions named one of the rows, including
        this one. `cold`: fewer did. `none`: the transaction names reservations only.
        """
        if not keys:
            return "none"
        if len(self._lost) + len(keys) > ROWS_MAX:
            self._lost.clear()
        now = self._clock()
        return "hot" if max([self._losses(key, now) for key in keys]) >= HOT_LOSSES else "cold"

    def _losses(self, key: StockKey, now: float) -> int:
        moments = self._lost.setdefault(key, deque(maxlen=HOT_LOSSES))
        moments.append(now)
        return sum(now - moment < HOT_SECONDS for moment in moments)
