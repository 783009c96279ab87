"""What goes wrong during an experiment, again and again until it ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from service.lab.experiment import Experiment
from service.lab.sandbox import drop_connections, kill_writer, paused_holder

KILL_SECONDS = 0.25  # between two deaths: every one costs a service a new connection
DROP_SECONDS = 1.0  # a database that loses everybody does so seldom
PAUSE_SECONDS = 1.5  # longer than the lock timeout of 1 s, so that waiting is given up


async def disturb(connection: Any, experiment: Experiment) -> None:
    """Do the experiment's fault until cancelled."""
    chance = random.Random(experiment.seed)  # noqa: S311 - repeatable
    while True:
        await FAULTS[experiment.fault](connection, experiment, chance)


async def _kill(connection: Any, _experiment: Experiment, chance: random.Random) -> None:
    """A session dies while it holds locks."""
    await asyncio.sleep(KILL_SECONDS * chance.uniform(0.5, 1.5))
    await kill_writer(connection)


async def _pause(connection: Any, experiment: Experiment, chance: random.Random) -> None:
    """Somebody locks the most popular row and freezes."""
    await asyncio.sleep(PAUSE_SECONDS * chance.uniform(0.3, 0.6))
    async with paused_holder(connection, experiment.sku_names[0]):
        await asyncio.sleep(PAUSE_SECONDS)


async def _drop(connection: Any, _experiment: Experiment, chance: random.Random) -> None:
    """Every connection breaks at once, as in a failover or behind a proxy that restarts."""
    await asyncio.sleep(DROP_SECONDS * chance.uniform(0.5, 1.5))
    await drop_connections(connection)


async def _nothing(_connection: Any, _experiment: Experiment, _chance: random.Random) -> None:
    await asyncio.sleep(3600)


FAULTS: dict[str, Callable[[Any, Experiment, random.Random], Awaitable[None]]] = {
    "none": _nothing,
    "kill": _kill,
    "pause": _pause,
    "drop": _drop,
}
