"""Token buckets in Redis, which all workers and services of an installation share.

The time is that of Redis, so that clocks of different machines do not matter. A bucket that is not
used until it is full is forgotten.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis as Client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

NAME = "holdfast:rate:"

TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i = 1, #KEYS do
    local rate, wanted = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
    local owed, debt_max = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
    local stored = redis.call('HMGET', KEYS[i], 'tokens', 'at')
    local tokens, at = tonumber(stored[1]) or rate, tonumber(stored[2]) or now
    tokens = math.min(rate, tokens + math.max(0, now - at) * rate / 1000000)
    local granted = math.max(0, math.min(wanted, math.floor(tokens)))
    tokens = math.max(tokens - granted - owed, -debt_max)
    redis.call('HSET', KEYS[i], 'tokens', string.format('%.6f', tokens),
        'at', string.format('%.0f', now))
    redis.call('PEXPIRE', KEYS[i], math.ceil((rate - tokens) * 1000 / rate) + 1000)
    answers[#answers + 1] = granted
    answers[#answers + 1] = string.format('%.6f', tokens)
end
return answers
"""
"""For each bucket: the rate, the tokens that are wanted, those that are owed in any case, and the
largest debt. It returns how many of the wanted ones are granted, and the tokens that are left."""


@dataclass(slots=True)
class Taking:
    """The tokens that requests ask of a bucket together, and those that they get."""

    per_second: int
    """The rate of the bucket, and its capacity."""
    debt_max: int
    wanted: int = 0
    """Tokens of which each is granted or not."""
    owed: int = 0
    """Tokens that are taken in any case, even if the bucket is in debt afterwards."""
    granted: int = 0
    tokens: float = 0.0
    """The tokens that are left."""


class SharedBuckets:
    """The buckets of a Redis, asked over one connection."""

    def __init__(self, url: str, seconds_max: float) -> None:
        self._client = Client.from_url(
            url,
            max_connections=2,  # one, and its successor while it is being closed
            socket_timeout=seconds_max,
            socket_connect_timeout=seconds_max,
            retry=Retry(NoBackoff(), 0),
        )
        self._take = self._client.register_script(TAKE)

    async def take(self, takings: dict[str, Taking]) -> None:
        """Take tokens from the bucket of each source, all at once. Raises if Redis does not."""
        asked = takings.values()
        answers = await self._take(
            keys=[f"{NAME}{source}" for source in takings],
            args=[value for each in asked for value in _arguments(each)],
        )
        for each, granted, tokens in zip(asked, answers[::2], answers[1::2], strict=True):
            each.granted, each.tokens = int(granted), float(tokens)

    async def ping(self) -> None:
        """Raise an error unless Redis answers."""
        await self._client.ping()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _arguments(taking: Taking) -> Iterable[Any]:
    return taking.per_second, taking.wanted, taking.owed, taking.debt_max
