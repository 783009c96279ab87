"""Logs refused callers by address, since a client may use an old key or guess keys."""

import asyncio
from collections import Counter

import structlog

log = structlog.get_logger()

SECONDS = 60.0  # between two log lines about the same address
ADDRESSES_MAX = 1_000  # counted separately in that time; all others are counted together


class Refusals:
    """The refusals of a worker: the first of each kind is logged at once, the others as a count."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, address: str, code: str, request_id: str) -> None:
        """Count a refusal, and log the first one of its kind."""
        if not self._counts:
            asyncio.get_running_loop().call_later(SECONDS, self.report)
        if (address, code) not in self._counts:
            if len(self._counts) >= ADDRESSES_MAX:
                address = "others"
            else:
                log.warning("refused", address=address, code=code, request_id=request_id)
        self._counts[address, code] += 1

    def report(self) -> None:
        """Log the number of refusals of each kind that had more than one, and start over."""
        counts, self._counts = self._counts, Counter()
        for (address, code), count in counts.items():
            if count > 1:
                log.warning("refused", address=address, code=code, times=count, seconds=SECONDS)
