"""The request rate of one key: a token bucket for each key, shared by the API and the page."""

import time
from dataclasses import dataclass, field
from uuid import UUID

from service.domain.errors import RateLimited

KEYS_MAX = 10_000  # one more key empties the table, so that its memory stays bounded


@dataclass(slots=True)
class Bucket:
    """The requests that a key may still send, as of its last request."""

    tokens: float
    refilled_at: float = field(default_factory=time.monotonic)


class RateLimit:
    """The rate limit of each key in this worker."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        """Requests per second that one key may send; 0 means no limit."""
        self._buckets: dict[UUID, Bucket] = {}

    def count(self, key_id: UUID) -> None:
        """Count a request of the key. Raises `RateLimited` when its bucket is empty."""
        if not self.per_second:
            return
        bucket = self._bucket_of(key_id)
        now = time.monotonic()
        refill = max((now - bucket.refilled_at) * self.per_second, 0.0)
        bucket.tokens = min(self.per_second, bucket.tokens + refill)
        bucket.refilled_at = now
        if bucket.tokens < 1:
            raise RateLimited(f"This key may send {self.per_second} requests a second.")
        bucket.tokens -= 1

    def _bucket_of(self, key_id: UUID) -> Bucket:
        bucket = self._buckets.get(key_id)
        if bucket is None:
            if len(self._buckets) >= KEYS_MAX:
                self._buckets.clear()
            bucket = self._buckets[key_id] = Bucket(self.per_second)
        return bucket
