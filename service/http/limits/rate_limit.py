"""How often one key may ask: a token bucket for each, shared by the API and the operator's page."""

import time
from dataclasses import dataclass, field
from uuid import UUID

from service.domain.errors import RateLimited

KEYS_MAX = 10_000  # beyond it all begin anew with full buckets: memory is bounded, the limit is not


@dataclass(slots=True)
class Bucket:
    """What one key has left, when that was counted last."""

    tokens: float
    refilled_at: float = field(default_factory=time.monotonic)


class RateLimit:
    """The requests that each key has sent to this worker."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        """Requests per second that one key may send; 0 is no limit."""
        self._buckets: dict[UUID, Bucket] = {}

    def count(self, key_id: UUID) -> None:
        """Count a request of the key. Raises `RateLimited` when a second's worth is used up."""
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
