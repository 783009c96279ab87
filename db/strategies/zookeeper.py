"""`zookeeper`: kazoo's lock recipe per key; the fencing token is the lock node's czxid.

czxid is the number of the transaction that made the node, so it grows from holder to holder. A
session that is SUSPENDED may have expired already, so its locks count as lost at once. kazoo works
in its own threads. Its calls may hang while the server is unreachable, so they are made from pools
of threads and never from the event loop, and each has a timeout.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.exceptions import LockTimeout as KazooLockTimeout
from kazoo.hosts import collect_hosts
from kazoo.protocol.states import KazooState

from db.rows import StockKey, Wanted
from db.session.database import Database, LockTimeout, StoreUnavailable
from db.strategies.stock_locks import DEAD_HOLDER_SECONDS, keys_to_lock, lock_name
from db.strategies.strategy import HeldLocks, Strategy

ROOT = "/holdfast/locks"
SESSION_SECONDS = DEAD_HOLDER_SECONDS
START_SECONDS_MAX = 3.0  # for the first connection; later ones are opened in the background
RECONNECT_SECONDS_MAX = 1.0  # between two tries; otherwise kazoo's wait doubles up to a minute
WAIT_SECONDS_MAX = 1.0  # for all locks of a batch, as for a row's lock
KEY_SECONDS = 0.01  # to take a lock that is free: a znode is written and flushed
KEYS_MAX = 250  # an import of thousands of rows would take minutes; it is guarded by versions alone
GRACE_SECONDS = 1.0  # for a call that gets no answer; after that no caller waits for it
THREADS = 16  # as many batches can wait for locks at once as a worker can have lanes

UNREACHABLE_DETAIL = "ZooKeeper, which keeps the locks, is unreachable"


def check_hosts(hosts: str) -> None:
    """Raise `ValueError` if these can't be the addresses of ZooKeeper servers."""
    try:
        collect_hosts(hosts)
    except (ValueError, IndexError):
        raise ValueError(
            "zookeeper-hosts can't be read: write it like host:port,host:port"
        ) from None


class ZooKeeper(Strategy):
    """A distributed lock around the transaction; inside it, versions and a fence."""

    name = "zookeeper"
    pins_rows = True

    def __init__(self, hosts: str) -> None:
        # Two pools: callers that wait for a lock must not keep its holder from releasing it.
        self._acquirers = ThreadPoolExecutor(THREADS, thread_name_prefix="zookeeper-acquire")
        self._releasers = ThreadPoolExecutor(THREADS, thread_name_prefix="zookeeper-release")
        self._client = KazooClient(
            hosts=hosts,
            timeout=SESSION_SECONDS,
            connection_retry={"max_tries": -1, "max_delay": RECONNECT_SECONDS_MAX},
        )
        self._client.add_listener(self._notice)
        self._starting: asyncio.Future[bool] | None = None
        self._all_held: dict[int, HeldLocks] = {}

    @asynccontextmanager
    async def hold(self, database: Database, wanted: Wanted) -> AsyncIterator[HeldLocks]:
        """Hold the locks of every key.

        Raises `LockTimeout`, or `StoreUnavailable` if ZooKeeper is unreachable.
        """
        await self._connect()
        keys = await keys_to_lock(database, wanted)
        if len(keys) > KEYS_MAX:
            keys = []
        held = HeldLocks()
        self._all_held[id(held)] = held
        locks: list[Any] = []
        acquiring = self._acquirers.submit(self._acquire, keys, locks)
        try:
            held.fences = await _granted(acquiring, _seconds_max(keys) + GRACE_SECONDS)
            yield held
        finally:
            del self._all_held[id(held)]
            await self._release_all(acquiring, locks)

    async def close(self) -> None:
        """End the session, which releases every lock."""
        await asyncio.to_thread(self._stop)
        self._acquirers.shutdown(wait=False, cancel_futures=True)
        self._releasers.shutdown(wait=False, cancel_futures=True)

    async def _connect(self) -> None:
        """Return when there is a session; raise `StoreUnavailable` at once when there is none."""
        if self._starting is None:
            live = self._client.start_async()
            loop = asyncio.get_running_loop()
            self._starting = loop.run_in_executor(None, live.wait, START_SECONDS_MAX)
        await asyncio.shield(self._starting)
        if not self._client.connected:
            raise StoreUnavailable(UNREACHABLE_DETAIL)

    def _stop(self) -> None:
        with suppress(KazooException, OSError, AttributeError):  # never connected, or unreachable
            self._client.stop()
            self._client.close()

    def _notice(self, state: str) -> None:
        """Called by kazoo's thread when the session's state changes."""
        if state != KazooState.CONNECTED:
            for held in list(self._all_held.values()):
                held.is_lost = True

    def _acquire(self, keys: list[StockKey], locks: list[Any]) -> dict[StockKey, int]:
        """In a thread: take the locks in order and return each one's token."""
        give_up_at = time.monotonic() + _seconds_max(keys)
        tokens: dict[StockKey, int] = {}
        for key in keys:
            seconds_left = give_up_at - time.monotonic()
            lock = self._client.Lock(f"{ROOT}/{lock_name(key)}")
            locks.append(lock)
            if seconds_left <= 0 or not lock.acquire(timeout=seconds_left):
                raise KazooLockTimeout
            node = self._client.exists(f"{lock.path}/{lock.node}")
            if node is None:
                raise KazooException("the session that held the lock has expired")
            tokens[key] = node.czxid
        return tokens

    async def _release_all(self, acquiring: "Future[Any]", locks: list[Any]) -> None:
        """Release the locks as soon as the attempt to acquire them has ended."""
        if acquiring.done():
            releasing = asyncio.wrap_future(self._releasers.submit(_release, locks))
            await asyncio.wait({releasing}, timeout=GRACE_SECONDS)
        else:
            acquiring.add_done_callback(lambda _: self._release_late(locks))

    def _release_late(self, locks: list[Any]) -> None:
        with suppress(RuntimeError):  # closed in the meantime, which has released every lock
            self._releasers.submit(_release, locks)


def _seconds_max(keys: list[StockKey]) -> float:
    return WAIT_SECONDS_MAX + KEY_SECONDS * len(keys)


async def _granted(
    acquiring: "Future[dict[StockKey, int]]", seconds_max: float
) -> dict[StockKey, int]:
    try:
        async with asyncio.timeout(seconds_max):
            return await asyncio.shield(asyncio.wrap_future(acquiring))
    except KazooLockTimeout as error:
        raise LockTimeout from error
    except (KazooException, OSError, TimeoutError) as error:
        raise StoreUnavailable(UNREACHABLE_DETAIL) from error


def _release(locks: list[Any]) -> None:
    """In a thread: release every lock; one that can't be released ends with the session."""
    for lock in reversed(locks):
        with suppress(KazooException, OSError):
            lock.release()
