"""A token bucket: the requests that a source may still send, and the headers that tell them."""

import math
import time
from dataclasses import dataclass

DEBT_SECONDS_MAX = 3600
"""A batch may owe the requests that the source earns in this time; any further debt is forgiven."""

FULL_AFTER_SECONDS = 64
"""An empty bucket is full after this time at the latest: one request a second over 64 workers."""


@dataclass(slots=True)
class Allowance:
    """The state of a source's rate limit after a request was counted."""

    is_admitted: bool
    quota: int
    """The requests a second that the whole service allows the source."""
    tokens: float
    """The requests that may follow at once; negative after a batch that owes some."""
    per_second: float
    """The rate at which the bucket that was asked is refilled."""

    @property
    def retry_after_seconds(self) -> int:
        """The whole seconds until the next request is admitted, at least one."""
        return min(max(math.ceil((1 - self.tokens) / self.per_second), 1), DEBT_SECONDS_MAX)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of draft-ietf-httpapi-ratelimit-headers-10."""
        remaining = max(int(self.tokens), 0)
        seconds = 1 if remaining else self.retry_after_seconds
        return [
            (b"ratelimit-policy", b'"default";q=%d;w=1' % self.quota),
            (b"ratelimit", b'"default";r=%d;t=%d' % (remaining, seconds)),
        ]


class Bucket:
    """A token bucket in this worker, which is full at first and holds the requests of a second."""

    __slots__ = ("refilled_at", "tokens")

    def __init__(self) -> None:
        self.tokens = math.inf
        self.refilled_at = time.monotonic()

    def take(self, wanted: int, per_second: float, *, owes: bool = False) -> bool:
        """Take tokens; return False, and take none, if there are too few.

        With `owes` the bucket gives them in any case and is in debt afterwards.
        """
        self.refill(per_second)
        if self.tokens < wanted and not owes:
            return False
        self.tokens = max(self.tokens - wanted, -DEBT_SECONDS_MAX * per_second)
        return True

    @property
    def is_idle(self) -> bool:
        """True when it is surely full, because it was not used for long and owed nothing."""
        return self.tokens >= 0 and time.monotonic() - self.refilled_at > FULL_AFTER_SECONDS

    def follow(self, tokens: float) -> None:
        """Become the share of a bucket in Redis, to go on from there if Redis gets lost."""
        self.tokens, self.refilled_at = tokens, time.monotonic()

    def refill(self, per_second: float) -> None:
        """Add the tokens of the time since the last call."""
        now = time.monotonic()
        refilled = self.tokens + max(now - self.refilled_at, 0.0) * per_second
        self.tokens, self.refilled_at = min(refilled, max(per_second, 1.0)), now
