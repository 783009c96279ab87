"""The processes that run the services of experiments; they are started once for many runs."""

import asyncio
import multiprocessing
import multiprocessing.synchronize
from collections.abc import Iterator, MutableSequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import structlog

from service.lab.experiment import Experiment
from service.lab.worker import ProcessReport, work

READY_SECONDS_MAX = 60.0
"""Time for every process to connect: a busy machine needs seconds to start Python."""

_shared: dict[str, Any] = {}
"""In a child process: the counters and the barrier that it was started with."""


class Processes:
    """Runs the share of each process: all in this process, or each in its own."""

    def __init__(self, count: int, pool: Executor | None, counts: MutableSequence[int]) -> None:
        self._count = count
        self._pool = pool
        self.counts = counts
        """The number of answers of each process in the current run."""

    async def run(self, experiment: Experiment, url: str) -> list[ProcessReport]:
        """Run an experiment and return the report of every process."""
        self.counts[:] = [0] * self._count
        if self._pool is None:
            return [await work(experiment, url, 0, self.counts, _at_once)]  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        return list(
            await asyncio.gather(
                *(
                    loop.run_in_executor(self._pool, _run_share, experiment, url, process)
                    for process in range(self._count)
                )
            )
        )


@contextmanager
def started(count: int) -> Iterator[Processes]:
    """Yield `count` processes; a single one is this process."""
    if count == 1:
        yield Processes(1, None, [0])
        return
    context = multiprocessing.get_context("spawn")  # a fork would share our event loop's sockets
    counts = context.Array("q", count, lock=False)
    barrier = context.Barrier(count, timeout=READY_SECONDS_MAX)
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin, initargs=(counts, barrier)
    ) as pool:
        yield Processes(count, pool, counts)


def _begin(counts: Any, barrier: multiprocessing.synchronize.Barrier) -> None:
    """Prepare a child process, once."""
    quiet()
    _shared.update(counts=counts, barrier=barrier)


def quiet() -> None:
    """Log only errors: the lab expects lost races."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def _run_share(experiment: Experiment, url: str, process: int) -> ProcessReport:
    """Run one share in a child process, which waits for the others and so runs only one."""

    async def ready() -> None:
        await asyncio.to_thread(_shared["barrier"].wait)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work(experiment, url, process, _shared["counts"], ready))


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of the same kind as the service's."""
    import uvloop  # noqa: PLC0415 - not on every platform

    return uvloop.new_event_loop()


async def _at_once() -> None:
    """Do not wait: there is no other process."""
