"""A process of its own that takes a SKU's lock outside the database and is frozen with it.

It takes the lock as a service would, through the strategy, and is stopped (SIGSTOP) until its lock
has expired or its session is over: it can neither renew nor answer. Woken, it lets go of what has
become another's. It writes nothing.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from db.rows import Key, Wanted
from db.session.database import Database, LockTimeout
from db.strategies import open_strategy
from db.strategies.guard import Guard
from db.strategies.names import DEAD_HOLDER_SECONDS
from service.lab.experiment import LOCATION, Experiment

FROZEN_BEYOND_SECONDS = 2.5  # for the next holder to be at work when the first one wakes
LOOK_SECONDS = 0.01  # between two looks whether it has the lock
END_SECONDS_MAX = 5.0  # to let go and disconnect; then it is ended


async def freeze_holder(experiment: Experiment, url: str) -> None:
    """Freeze a holder of the most popular SKU's lock past its expiry, then let it go on."""
    async with _holder(experiment, url) as process:
        os.kill(_pid(process), signal.SIGSTOP)
        try:
            await asyncio.sleep(DEAD_HOLDER_SECONDS + FROZEN_BEYOND_SECONDS)
        finally:
            os.kill(_pid(process), signal.SIGCONT)


@asynccontextmanager
async def _holder(experiment: Experiment, url: str) -> AsyncIterator[BaseProcess]:
    """A process that has the lock when the block begins and is gone when it is over."""
    context = multiprocessing.get_context("spawn")
    is_held, may_go = context.Event(), context.Event()
    process = context.Process(target=_live, args=(experiment, url, is_held, may_go), daemon=True)
    process.start()
    try:
        while not is_held.is_set():
            if not process.is_alive():
                raise RuntimeError("the process that was to be frozen could not take the lock")
            await asyncio.sleep(LOOK_SECONDS)
        yield process
    finally:
        may_go.set()
        await asyncio.to_thread(process.join, END_SECONDS_MAX)
        process.kill()


def _pid(process: BaseProcess) -> int:
    assert process.pid is not None  # noqa: S101 - it was started
    return process.pid


def _live(experiment: Experiment, url: str, is_held: Event, may_go: Event) -> None:
    """In the child."""
    asyncio.run(_hold(experiment, url, is_held, may_go))


async def _hold(experiment: Experiment, url: str, is_held: Event, may_go: Event) -> None:
    """Take the lock, say so, and keep it until told otherwise."""
    database = Database(url, pool_size=1)
    strategy = open_strategy(
        experiment.strategy,
        redis_url=experiment.redis_url,
        zookeeper_hosts=experiment.zookeeper_hosts,
    )
    key = experiment.sku_names[0], LOCATION
    try:
        while not may_go.is_set():
            with suppress(LockTimeout):  # the crowd wants it too
                await _hold_once(strategy, database, key, is_held, may_go)
    finally:
        await strategy.close()
        await database.close()


async def _hold_once(
    strategy: Guard, database: Database, key: Key, is_held: Event, may_go: Event
) -> None:
    async with strategy.hold(database, Wanted(stock={key})):
        is_held.set()
        await asyncio.to_thread(may_go.wait)
