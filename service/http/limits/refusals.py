"""Refused callers, by their address: somebody may be guessing keys, or a client has an old one."""

import asyncio
from collections import Counter

import structlog

log = structlog.get_logger()

SECONDS = 60.0  # between two lines about the same address
ADDRESSES_MAX = 1_000  # counted apart in that time; all others together


class Refusals:
    """The refusals of a worker: the first of each kind is logged at once, then their number."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, address: str, code: str) -> None:
        """Note a refusal."""
        if not self._counts:
            asyncio.get_running_loop().call_later(SECONDS, self.report)
        if (address, code) not in self._counts:
            if len(self._counts) >= ADDRESSES_MAX:
                address = "others"
            else:
                log.warning("refused", address=address, code=code)
        self._counts[address, code] += 1

    def report(self) -> None:
        """Log how many there were since the first, and begin anew."""
        counts, self._counts = self._counts, Counter()
        for (address, code), count in counts.items():
            if count > 1:
                log.warning("refused", address=address, code=code, times=count, seconds=SECONDS)
