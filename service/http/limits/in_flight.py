"""The requests of each source that a worker answers at once."""

from service.domain.errors import RateLimited


class InFlight:
    """The requests under way, by source. A source without any takes no memory."""

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        self._counts: dict[str, int] = {}

    def begin(self, source: str) -> None:
        """Count a request that begins. Raises `RateLimited` when too many are under way."""
        count = self._counts.get(source, 0)
        if count >= self.requests_max:
            raise RateLimited(
                f"The source has {self.requests_max} requests under way at once in this worker,"
                " which is the limit (INFLIGHT_MAX). Wait for their answers."
            )
        self._counts[source] = count + 1

    def end(self, source: str) -> None:
        """Count a request that has ended."""
        count = self._counts[source] - 1
        if count:
            self._counts[source] = count
        else:
            del self._counts[source]
