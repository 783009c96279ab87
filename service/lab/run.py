"""Run experiments: fill a fresh database, let the crowd in, disturb it, and judge what is left."""

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
from service.lab.result import Result, summarize
from service.lab.shop import fill, find_drift
from service.lab.verdict import judge, judge_budget

SAMPLE_SECONDS = 0.05
"""Between two looks at who waits for a lock: finer than a lock timeout, and hardly any load."""
PROBE_SECONDS = 2.0
"""For a lock service to answer before it counts as absent."""

Watch = Callable[[Experiment, float, int], None]
"""Told of a run's progress: the experiment, the seconds since it began, and the answers so far."""


@dataclass(slots=True)
class Lab:
    """A place to run experiments in."""

    sandbox: Sandbox
    processes: Processes
    watch: Watch = field(default=lambda _experiment, _seconds, _answers: None)
    prepare: str | None = None
    """SQL to run on each fresh database: how a test takes a safety net away."""

    async def run(self, experiment: Experiment) -> Result:
        """Run one experiment on a database of its own and return its figures and verdict."""
        async with self.sandbox.database() as url:
            await fill(url, experiment)
            if self.prepare is not None:
                async with observing(url) as observer:
                    await observer.execute(self.prepare)
            async with self._watched(experiment, url) as waited:
                reports = await self.processes.run(experiment, url)
            answers = [answer for report in reports for answer in report.answers]
            async with observing(url) as observer:
                verdict = judge(experiment, answers, await moves(observer), await left(observer))
            verdict.books = await find_drift(url)
            result = summarize(experiment, reports, waited.seconds, verdict)
            verdict.budget = judge_budget(
                experiment, sum(result.retries.values()), result.requests, result.seconds
            )
            return result

    @asynccontextmanager
    async def _watched(self, experiment: Experiment, url: str) -> AsyncIterator["_Waited"]:
        """Sample, disturb and show progress while the block runs."""
        waited = _Waited()
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

    async def _sample(self, experiment: Experiment, observer: Observer, waited: "_Waited") -> None:
        started = last = time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            waiting = await lock_waits(observer)
            now = time.monotonic()
            waited.seconds += waiting * (now - last)
            last = now
            self.watch(experiment, now - started, sum(self.processes.counts))


@dataclass(slots=True)
class _Waited:
    """Seconds that sessions waited for locks, in all."""

    seconds: float = 0.0


async def runnable(experiment: Experiment, strategies: Sequence[str]) -> dict[str, str | None]:
    """Return for each strategy None, or in a sentence why it can't be run here."""
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
    from redis.exceptions import RedisError  # noqa: PLC0415

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
