"""Runs experiments: fills a new database, runs the crowd and the fault, and judges the result."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from db.lab.observation import Observer, left, lock_waits, moves, observing
from db.lab.sandbox import Sandbox
from db.strategies import check_strategy
from db.vocabulary import StrategyName
from service.lab.experiment import Experiment
from service.lab.faults import disturb
from service.lab.processes import Processes
from service.lab.result import RunResult, summarize
from service.lab.shop import create_stock, find_drift
from service.lab.verdict import judge, judge_budget
from service.lab.worker import LockWaits

SAMPLE_SECONDS = 0.05
"""Between two samples of the waiting sessions: shorter than a lock timeout, with little load."""
PROBE_SECONDS = 2.0
"""The time after which a lock service that does not answer counts as absent."""

ProgressCallback = Callable[[Experiment, float, int], None]
"""Gets the progress of a run: the experiment, the seconds since its start, and the answers."""


@dataclass(slots=True)
class ExperimentRunner:
    """Runs experiments in a sandbox."""

    sandbox: Sandbox
    processes: Processes
    watch: ProgressCallback = field(default=lambda _experiment, _seconds, _answers: None)
    prepare: str | None = None
    """SQL to run on each new database, with which a test removes a safety net."""

    async def run(self, experiment: Experiment) -> RunResult:
        """Run one experiment on a database of its own and return its figures and verdict."""
        async with self.sandbox.database() as url:
            await create_stock(url, experiment)
            if self.prepare is not None:
                async with observing(url) as observer:
                    await observer.execute(self.prepare)
            async with self._watched(experiment, url) as waited:
                reports = await self.processes.run(experiment, url)
            exchanges = [exchange for report in reports for exchange in report.exchanges]
            async with observing(url) as observer:
                verdict = judge(experiment, exchanges, await moves(observer), await left(observer))
            verdict.books = await find_drift(url)
            result = summarize(experiment, reports, waited.seconds, verdict)
            verdict.budget = judge_budget(
                experiment, sum(result.retries.values()), result.requests, result.seconds
            )
            return result

    @asynccontextmanager
    async def _watched(self, experiment: Experiment, url: str) -> AsyncIterator[LockWaits]:
        """Sample lock waits, inject the fault and show progress while the block runs."""
        waited = LockWaits()
        async with observing(url) as sampling, observing(url) as disturbing:
            tasks = [
                asyncio.create_task(self._sample(experiment, sampling, waited)),
                asyncio.create_task(disturb(experiment, url, disturbing)),
            ]
            try:
                yield waited
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                for task in tasks:
                    if not task.cancelled():
                        task.result()

    async def _sample(self, experiment: Experiment, observer: Observer, waited: LockWaits) -> None:
        started = last = time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            waiting = await lock_waits(observer)
            now = time.monotonic()
            waited.seconds += waiting * (now - last)
            last = now
            self.watch(experiment, now - started, sum(self.processes.counts))


async def find_reasons_not_to_run(
    experiment: Experiment, strategies: Sequence[str]
) -> dict[str, str | None]:
    """Return for each strategy the reason that it can't run here, or None."""
    reasons: dict[str, str | None] = dict.fromkeys(strategies)
    if "redis" in reasons:
        reasons["redis"] = await _redis_absence(experiment.redis_url)
    if "zookeeper" in reasons:
        reasons["zookeeper"] = await _zookeeper_absence(experiment.zookeeper_hosts)
    return reasons


async def _redis_absence(url: str | None) -> str | None:
    if url is None:
        return "no --redis-url"
    try:
        check_strategy(StrategyName.REDIS, url, None)
    except ValueError as error:
        return str(error)
    from redis.asyncio import Redis as RedisClient  # noqa: PLC0415 - an extra
    from redis.exceptions import RedisError  # noqa: PLC0415 - its client is an extra

    client = RedisClient.from_url(url, socket_connect_timeout=PROBE_SECONDS)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return f"no Redis answers ({error})"
    finally:
        await client.aclose()
    return None


async def _zookeeper_absence(hosts: str | None) -> str | None:
    if hosts is None:
        return "no --zookeeper-hosts"
    try:
        check_strategy(StrategyName.ZOOKEEPER, None, hosts)
    except ValueError as error:
        return str(error)
    for host in hosts.split("/")[0].split(","):
        address = urlsplit(f"//{host.strip()}")
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS):
                _, writer = await asyncio.open_connection(address.hostname, address.port or 2181)
            writer.close()
            await writer.wait_closed()
            return None
    return "no ZooKeeper answers"


def each_strategy(experiment: Experiment, strategies: Sequence[str]) -> list[Experiment]:
    """Return the experiment once for every strategy."""
    return [replace(experiment, strategy=strategy) for strategy in strategies]
