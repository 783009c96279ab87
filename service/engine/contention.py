"""Which stock is fought over: the SKU class of a lost race, for the metrics.

Only races that were lost are looked at, so that a service without conflicts pays nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Literal

from db.rows import StockKey

SkuClass = Literal["hot", "cold", "none"]

HOT_LOSSES = 3  # within HOT_SECONDS: once is chance, twice is the retry
HOT_SECONDS = 1.0
ROWS_MAX = 10_000  # remembered; a service that loses more rows than that a second has no hot ones


class LostRows:
    """The stock rows that this process lost of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lost: dict[StockKey, deque[float]] = {}

    def classify(self, keys: Collection[StockKey]) -> SkuClass:
        """Note that a transaction which names these rows was lost; return what kind of rows.

        `hot`: one of them was named by `HOT_LOSSES` lost transactions, this one included, within
        `HOT_SECONDS`. `cold`: none was. `none`: it names reservations only.
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
