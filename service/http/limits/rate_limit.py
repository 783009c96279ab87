"""The request rate of one source: a token bucket for each, shared by the API and the page.

The bucket is in Redis if one is set, and exact over all workers. Otherwise, and while Redis does
not answer, each worker has a bucket with its share of the rate.
"""

from service.http.limits.bucket import Allowance, Bucket
from service.http.limits.shared_rates import SharedRates

SOURCES_MAX = 10_000
"""Sources whose buckets a worker keeps. A full bucket is dropped first, since a new one is full."""


class RateLimit:
    """The rate limits of the sources in this worker, which has a share of each."""

    def __init__(self, default: int, workers: int, shared: SharedRates | None = None) -> None:
        self.default = default
        """Requests a second of a source without a limit of its own; 0 means no limit."""
        self.workers = workers
        self.shared = shared
        self._buckets: dict[str, Bucket] = {}

    def quota(self, own: int | None) -> int:
        """Return the requests a second of a source, from its own limit; 0 means no limit."""
        return self.default if own is None else own

    async def take(
        self, source: str, quota: int, wanted: int = 1, *, owes: bool = False
    ) -> Allowance:
        """Count requests of a source; with `owes` they are admitted in any case."""
        share = quota / self.workers
        bucket = self._bucket_of(source, share)
        if self.shared is not None:
            taken = await self.shared.take(source, quota, wanted, owes=owes)
            if taken is not None:
                bucket.follow(taken[1] / self.workers)
                return Allowance(taken[0], quota, taken[1], quota)
        is_admitted = bucket.take(wanted, share, owes=owes)
        return Allowance(is_admitted, quota, bucket.tokens, share)

    async def close(self) -> None:
        """Close the connection to Redis, if there is one."""
        if self.shared is not None:
            await self.shared.close()

    def _bucket_of(self, source: str, share: float) -> Bucket:
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= SOURCES_MAX:
                self._make_room()
            bucket = self._buckets[source] = Bucket()
            bucket.refill(share)
        return bucket

    def _make_room(self) -> None:
        """Drop the buckets that are full, or else the oldest one."""
        idle = [source for source, bucket in self._buckets.items() if bucket.is_idle]
        for source in idle or [next(iter(self._buckets))]:
            del self._buckets[source]
