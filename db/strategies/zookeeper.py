"""`zookeeper`: kazoo's lock recipe per key; the fencing token is the lock node's czxid.

czxid is the number of the transaction that made the node, so it grows from holder to holder. A
session that is SUSPENDED may be over already: its locks count as lost at once. kazoo works in
threads of its own, and its calls are made from a pool of threads, never from the event loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.exceptions import LockTimeout as KazooLockTimeout
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState

from db.database import Database, LockTimeout, Unavailable
from db.rows import Wanted
from db.strategies.guard import Guard, Held
from db.strategies.names import keys_of, name_of, names_of

ROOT = "/holdfast/locks"
SESSION_SECONDS = 5.0  # a dead holder's locks are free after that
START_SECONDS_MAX = 3.0
WAIT_SECONDS_MAX = 1.0  # for all locks of a batch, as for a row's lock
THREADS = 8  # as many batches can wait for locks at once; lanes are fewer


class ZooKeeper(Guard):
    """A distributed lock around the transaction, as `version` and a fence inside it."""

    name = "zookeeper"
    pins_rows = True

    def __init__(self, hosts: str) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="zookeeper")
        self._client = KazooClient(hosts=hosts, timeout=SESSION_SECONDS)
        self._client.add_listener(self._notice)
        self._starting = asyncio.Lock()
        self._started = False
        self._all_held: dict[int, Held] = {}

    @asynccontextmanager
    async def hold(self, database: Database, wanted: Wanted) -> AsyncIterator[Held]:
        """Hold the locks of every key. Raises `LockTimeout`, or `Unavailable` without ZooKeeper."""
        await self._start_once()
        keys = await keys_of(database, wanted)
        names = sorted(names_of(wanted.reservations, keys))
        held = Held()
        self._all_held[id(held)] = held
        locks: dict[str, Any] = {}
        try:
            try:
                tokens = await self._run(self._acquire, names, locks)
            except KazooLockTimeout as error:
                raise LockTimeout from error
            except (KazooException, KazooTimeoutError, OSError) as error:
                raise Unavailable("ZooKeeper, which keeps the locks, is away") from error
            held.fences = {key: tokens[name_of(key)] for key in keys}
            yield held
        finally:
            del self._all_held[id(held)]
            await self._run(self._release, locks)

    async def close(self) -> None:
        """End the session, which frees every lock."""
        await self._run(self._client.stop)
        await self._run(self._client.close)
        self._threads.shutdown(wait=False)

    async def _start_once(self) -> None:
        async with self._starting:
            if self._started:
                return
            try:
                await self._run(self._client.start, START_SECONDS_MAX)
            except (KazooException, KazooTimeoutError, OSError) as error:
                raise Unavailable("ZooKeeper, which keeps the locks, is away") from error
            self._started = True

    def _notice(self, state: str) -> None:
        """Called by kazoo's thread when the session's state changes."""
        if state != KazooState.CONNECTED:
            for held in list(self._all_held.values()):
                held.is_lost = True

    def _acquire(self, names: list[str], locks: dict[str, Any]) -> dict[str, int]:
        """In a thread: take the locks in order and return each one's token."""
        give_up_at = time.monotonic() + WAIT_SECONDS_MAX
        tokens: dict[str, int] = {}
        for name in names:
            if not self._client.connected:
                raise KazooException("the session is suspended")
            lock = locks[name] = self._client.Lock(f"{ROOT}/{name}")
            lock.acquire(timeout=max(0.05, give_up_at - time.monotonic()))
            tokens[name] = self._client.exists(f"{lock.path}/{lock.node}").czxid
        return tokens

    def _release(self, locks: dict[str, Any]) -> None:
        """In a thread: let every lock go; what can't be released ends with the session."""
        for lock in reversed(locks.values()):
            with suppress(KazooException, KazooTimeoutError, OSError):
                lock.release()

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
