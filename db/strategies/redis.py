"""`redis`: a lock per key in Redis, with a fencing token, and the guarded row behind it.

A lock can expire while its holder is paused, and then it protects nothing (Kleppmann, "How to do
distributed locking", 2016). So every grant carries a token that only grows, each row keeps the
highest token it has seen, and a writer with a lower one is refused. Versions are checked as well.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Client
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from db.rows import Wanted
from db.session.database import Database, LockTimeout, StoreUnavailable
from db.strategies.stock_locks import DEAD_HOLDER_SECONDS, keys_to_lock, lock_name
from db.strategies.strategy import HeldLocks, Strategy

EXPIRE_SECONDS = DEAD_HOLDER_SECONDS  # a live holder renews its locks before that
WAIT_SECONDS_MAX = 1.0  # for the locks, as for a row's lock
POLL_SECONDS = 0.002  # between two tries; a COMMIT takes about as long
SOCKET_SECONDS_MAX = 1.0  # requests must not wait for an unreachable Redis
CONNECTIONS_MAX = 16
FENCE = "holdfast:fence"

UNREACHABLE = (RedisError, OSError, TimeoutError)

ACQUIRE = """
for i = 1, #KEYS - 1 do
    if redis.call('GET', KEYS[i]) ~= ARGV[1]
        and not redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
end
local now = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[#KEYS]) or '0')
local token = math.max(now[1] * 1000000 + now[2], last + 1)
redis.call('SET', KEYS[#KEYS], string.format('%.0f', token))
return token
"""
"""Takes the locks in order until it finds one that is taken; then it is called again for the rest.
The token is the clock in microseconds, or one more than the last token: it grows even if Redis
forgets everything."""

RENEW = """
local held = 0
for i = 1, #KEYS do
    if redis.call('GET', KEYS[i]) == ARGV[1] then
        held = held + redis.call('PEXPIRE', KEYS[i], ARGV[2])
    end
end
return held
"""

RELEASE = """
for i = 1, #KEYS do
    if redis.call('GET', KEYS[i]) == ARGV[1] then redis.call('DEL', KEYS[i]) end
end
"""


def check_url(url: str) -> None:
    """Raise `ValueError` if this can't be the address of a Redis, without showing its password."""
    try:
        parse_url(url)
    except ValueError:
        raise ValueError(
            "redis-url can't be read: write it like redis://user:password@host:port/0, with"
            " special characters percent-encoded"
        ) from None


class Redis(Strategy):
    """A distributed lock around the transaction; inside it, versions and a fence."""

    name = "redis"
    pins_rows = True

    def __init__(self, url: str) -> None:
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=WAIT_SECONDS_MAX,
            socket_timeout=SOCKET_SECONDS_MAX,
            socket_connect_timeout=SOCKET_SECONDS_MAX,
        )
        self._client = Client.from_pool(pool)
        self._acquire_script = self._client.register_script(ACQUIRE)
        self._renew_script = self._client.register_script(RENEW)
        self._release_script = self._client.register_script(RELEASE)

    @asynccontextmanager
    async def hold(self, database: Database, wanted: Wanted) -> AsyncIterator[HeldLocks]:
        """Hold the locks of every key.

        Raises `LockTimeout`, or `StoreUnavailable` if Redis is unreachable.
        """
        keys = await keys_to_lock(database, wanted)
        names = [f"holdfast:{lock_name(key)}" for key in keys]
        value = secrets.token_hex(16)
        try:
            held = HeldLocks(dict.fromkeys(keys, await self._acquire(names, value)))
            renewal = asyncio.create_task(self._renew(names, value, held))
            try:
                yield held
            finally:
                held.is_lost = True  # ends the renewal even if redis-py swallows the cancellation
                renewal.cancel()
        finally:
            with suppress(*UNREACHABLE):  # in that case the locks expire
                await self._release_script(keys=names, args=[value])

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _acquire(self, names: list[str], value: str) -> int:
        """Return the token under which all the locks are held."""
        arguments: list[Any] = [value, int(EXPIRE_SECONDS * 1000)]
        give_up_at = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            try:
                token = await self._acquire_script(keys=[*names, FENCE], args=arguments)
            except UNREACHABLE as error:
                raise StoreUnavailable(
                    f"Redis, which keeps the locks, is unreachable ({error})"
                ) from error
            if token:
                return int(token)
            if time.monotonic() > give_up_at:
                raise LockTimeout
            await asyncio.sleep(POLL_SECONDS * (0.5 + secrets.randbelow(1000) / 1000))

    async def _renew(self, names: list[str], value: str, held: HeldLocks) -> None:
        """Renew the locks, and note when one of them is lost."""
        arguments: list[Any] = [value, int(EXPIRE_SECONDS * 1000)]
        while not held.is_lost:
            await asyncio.sleep(EXPIRE_SECONDS / 3)
            try:
                held.is_lost = await self._renew_script(keys=names, args=arguments) < len(names)
            except UNREACHABLE:
                held.is_lost = True
