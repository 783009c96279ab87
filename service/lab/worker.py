"""One process of an experiment: its services, its share of the crowd, and its report."""

import asyncio
import gc
import time
from collections import Counter as Counts
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import Counter

from db.rows import Wanted
from db.session.database import Database
from db.strategies import open_strategy
from db.strategies.strategy import HeldLocks, Strategy
from service import metrics
from service.engine.coalescer import Coalescer, CoalescerLimits
from service.engine.ledger import Ledger
from service.engine.retry import RetryPolicy
from service.lab.crowd import Crowd, Exchange
from service.lab.experiment import Experiment

SPARE_CONNECTIONS = 3
"""Besides the lanes: reads before an outside lock, split batches, the outcome of a COMMIT."""


@dataclass(slots=True)
class ProcessReport:
    """The observations of one process. Times are of the monotonic clock, in seconds."""

    started: float
    ended: float
    exchanges: list[Exchange]
    conflicts: dict[str, int]
    retries: dict[str, int]
    transactions: int
    outside_seconds: float
    """The time spent on taking locks outside the database."""


@dataclass(slots=True)
class LockWaits:
    """The total seconds of waiting for locks."""

    seconds: float = field(default=0.0)


class TimedStrategy(Strategy):
    """A strategy that also measures the waits for locks outside the database."""

    def __init__(self, strategy: Strategy, waited: LockWaits) -> None:
        self.name = strategy.name
        self.isolation = strategy.isolation
        self.pins_rows = strategy.pins_rows
        self.load = strategy.load  # type: ignore[method-assign]
        self.apply = strategy.apply  # type: ignore[method-assign]
        self.close = strategy.close  # type: ignore[method-assign]
        self._strategy = strategy
        self._waited = waited

    @asynccontextmanager
    async def hold(self, database: Database, wanted: Wanted) -> AsyncIterator[HeldLocks]:
        """Hold the locks of the strategy and measure the wait for them."""
        called = time.monotonic()
        async with self._strategy.hold(database, wanted) as held:
            self._waited.seconds += time.monotonic() - called
            yield held


async def work(
    experiment: Experiment,
    url: str,
    process: int,
    counts: list[int],
    ready: Callable[[], Awaitable[None]],
) -> ProcessReport:
    """Run the share of one process; `ready` returns when every process is ready."""
    waited = LockWaits()
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(_service(experiment, url, waited))
            for _ in range(experiment.services_per_process)
        ]
        crowd = Crowd(experiment, services, process, counts)
        await ready()
        before = _counted(metrics.CONFLICTS), _counted(metrics.RETRIES), _transactions()
        waited.seconds = 0.0
        gc.collect()
        started = time.monotonic()
        await crowd.run()
        ended = time.monotonic()
    return ProcessReport(
        started,
        ended,
        crowd.exchanges,
        _difference(_counted(metrics.CONFLICTS), before[0]),
        _difference(_counted(metrics.RETRIES), before[1]),
        _transactions() - before[2],
        waited.seconds,
    )


@asynccontextmanager
async def _service(experiment: Experiment, url: str, waited: LockWaits) -> AsyncIterator[Coalescer]:
    """A service like a worker of `holdfast serve` but without HTTP, connected and warmed up."""
    lanes = 1 if experiment.merge else experiment.lanes
    limits = (
        CoalescerLimits(lanes=lanes)
        if experiment.merge
        else CoalescerLimits(lanes=lanes, batch_lines_max=1)
    )
    database = Database(url, pool_size=lanes + SPARE_CONNECTIONS)
    strategy = open_strategy(
        experiment.strategy,
        redis_url=experiment.redis_url,
        zookeeper_hosts=experiment.zookeeper_hosts,
    )
    policy = RetryPolicy(share_max=experiment.retry_share)
    coalescer = Coalescer(Ledger(database, TimedStrategy(strategy, waited), policy), limits)
    try:
        await asyncio.gather(*(database.ping() for _ in range(lanes)))
        async with strategy.hold(database, Wanted()):
            pass  # connects to the lock service
        yield coalescer
    finally:
        await coalescer.drain()
        await strategy.close()
        await database.close()


def _counted(counter: Counter) -> dict[str, int]:
    """Return a counter's value in this process for each label `kind`."""
    counts: Counts[str] = Counts()
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                counts[sample.labels["kind"]] += int(sample.value)
    return counts


def _transactions() -> int:
    """Return the number of transactions that this process has begun, without retries."""
    return sum(
        int(sample.value)
        for family in metrics.BATCH_SIZE.collect()
        for sample in family.samples
        if sample.name.endswith("_count")
    )


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {
        kind: count - before.get(kind, 0)
        for kind, count in after.items()
        if count > before.get(kind, 0)
    }
