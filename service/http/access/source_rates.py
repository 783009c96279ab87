"""The own rate limit of a token's source, which for a key is looked up together with the key."""

import asyncio
import time
from dataclasses import dataclass

from db.queries import credentials
from service.http.access.lookups import LOOKUP_SECONDS_MAX, Lookups


@dataclass(frozen=True, slots=True)
class KnownRate:
    """The own limit of a source; None if it has none."""

    requests_per_second: int | None
    looked_up_at: float
    is_expired: bool = False


class SourceRates(Lookups[str, KnownRate]):
    """The rate limits of the sources of tokens that a worker has looked up."""

    failure = "The limits of the source could not be looked up in time."

    async def _read(self, name: str) -> KnownRate:
        asked_at = time.monotonic()
        async with asyncio.timeout(LOOKUP_SECONDS_MAX):
            rate = await self.database.read(
                lambda connection: credentials.rate_of(connection, name), is_urgent=True
            )
        return KnownRate(rate, asked_at)
