"""What goes wrong during an experiment, again and again until it ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from db.observation import Observer, drop_connections, kill_writer, locked_rows
from service.lab.experiment import Experiment

KILL_SECONDS = 0.25  # between two deaths: every one costs a service a new connection
DROP_SECONDS = 1.0  # a database that loses everybody does so seldom
PAUSE_SECONDS = 1.5  # longer than the lock timeout of 1 s, so that waiting is given up


async def disturb(observer: Observer, experiment: Experiment) -> None:
    """Do the experiment's fault until cancelled."""
    chance = random.Random(experiment.seed)  # noqa: S311 - repeatable
    while True:
        await FAULTS[experiment.fault](observer, experiment, chance)


async def _kill(observer: Observer, _experiment: Experiment, chance: random.Random) -> None:
    """A session dies while it holds locks."""
    await asyncio.sleep(KILL_SECONDS * chance.uniform(0.5, 1.5))
    await kill_writer(observer)


async def _pause(observer: Observer, experiment: Experiment, chance: random.Random) -> None:
    """Somebody locks the most popular row and freezes."""
    await asyncio.sleep(PAUSE_SECONDS * chance.uniform(0.3, 0.6))
    async with locked_rows(observer, experiment.sku_names[0]):
        await asyncio.sleep(PAUSE_SECONDS)


async def _drop(observer: Observer, _experiment: Experiment, chance: random.Random) -> None:
    """Every connection breaks at once, as in a failover or behind a proxy that restarts."""
    await asyncio.sleep(DROP_SECONDS * chance.uniform(0.5, 1.5))
    await drop_connections(observer)


async def _nothing(_observer: Observer, _experiment: Experiment, _chance: random.Random) -> None:
    await asyncio.sleep(3600)


FAULTS: dict[str, Callable[[Observer, Experiment, random.Random], Awaitable[None]]] = {
    "none": _nothing,
    "kill": _kill,
    "pause": _pause,
    "drop": _drop,
}
