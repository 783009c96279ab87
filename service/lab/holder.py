"""A separate process that takes a SKU's lock outside the database and is then paused.

It takes the lock through the strategy, as a service does. Then it is stopped (SIGSTOP) until its
lock or its session has expired, because it can neither renew nor answer. When it continues, it
releases a lock that another client holds by then. It writes nothing.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from db.rows import StockKey, Wanted
from db.session.database import Database, LockTimeout
from db.strategies import open_strategy
from db.strategies.stock_locks import DEAD_HOLDER_SECONDS
from db.strategies.strategy import Strategy
from service.lab.experiment import LOCATION, Experiment

FROZEN_BEYOND_SECONDS = 2.5  # so that the next holder is at work when the first one continues
POLL_SECONDS = 0.01  # between two checks whether the process has the lock
END_SECONDS_MAX = 5.0  # to release the lock and disconnect; then it is killed


async def freeze_holder(experiment: Experiment, url: str) -> None:
    """Pause a holder of the most popular SKU's lock past its expiry, then let it continue."""
    async with _holder(experiment, url) as process:
        os.kill(_pid(process), signal.SIGSTOP)
        try:
            await asyncio.sleep(DEAD_HOLDER_SECONDS + FROZEN_BEYOND_SECONDS)
        finally:
            os.kill(_pid(process), signal.SIGCONT)


@asynccontextmanager
async def _holder(experiment: Experiment, url: str) -> AsyncIterator[BaseProcess]:
    """Yield a process that holds the lock; end it after the block."""
    context = multiprocessing.get_context("spawn")
    is_held, may_go = context.Event(), context.Event()
    process = context.Process(
        target=_run_holder, args=(experiment, url, is_held, may_go), daemon=True
    )
    process.start()
    try:
        while not is_held.is_set():
            if not process.is_alive():
                raise RuntimeError("the process to be paused could not take the lock")
            await asyncio.sleep(POLL_SECONDS)
        yield process
    finally:
        may_go.set()
        await asyncio.to_thread(process.join, END_SECONDS_MAX)
        process.kill()


def _pid(process: BaseProcess) -> int:
    assert process.pid is not None  # noqa: S101 - it was started
    return process.pid


def _run_holder(experiment: Experiment, url: str, is_held: Event, may_go: Event) -> None:
    """The main function of the child process."""
    asyncio.run(_hold(experiment, url, is_held, may_go))


async def _hold(experiment: Experiment, url: str, is_held: Event, may_go: Event) -> None:
    """Take the lock, report it, and hold it until told to stop."""
    database = Database(url, pool_size=1)
    strategy = open_strategy(
        experiment.strategy,
        redis_url=experiment.redis_url,
        zookeeper_hosts=experiment.zookeeper_hosts,
    )
    key = experiment.sku_names[0], LOCATION
    try:
        while not may_go.is_set():
            with suppress(LockTimeout):  # a client holds the lock
                await _hold_once(strategy, database, key, is_held, may_go)
    finally:
        await strategy.close()
        await database.close()


async def _hold_once(
    strategy: Strategy, database: Database, key: StockKey, is_held: Event, may_go: Event
) -> None:
    async with strategy.hold(database, Wanted(stock={key})):
        is_held.set()
        await asyncio.to_thread(may_go.wait)
