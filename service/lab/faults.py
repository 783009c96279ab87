"""What goes wrong during an experiment, again and again until it ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from db.lab.observation import Observer, drop_connections, kill_writer, locked_rows
from db.vocabulary import DISTRIBUTED_STRATEGIES
from service.lab.experiment import Experiment
from service.lab.holder import freeze_holder

KILL_SECONDS = 0.25  # between two deaths: every one costs a service a new connection
DROP_SECONDS = 1.0  # a database that loses everybody does so seldom
PAUSE_SECONDS = 1.5  # longer than the lock timeout of 1 s, so that waiting is given up


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it goes wrong."""

    experiment: Experiment
    url: str
    observer: Observer
    chance: random.Random


async def disturb(experiment: Experiment, url: str, observer: Observer) -> None:
    """Do the experiment's fault until cancelled."""
    chance = random.Random(experiment.seed)  # noqa: S311 - repeatable
    scene = Scene(experiment, url, observer, chance)
    while True:
        await FAULTS[experiment.fault](scene)


async def _kill(scene: Scene) -> None:
    """A session dies while it holds locks."""
    await asyncio.sleep(KILL_SECONDS * scene.chance.uniform(0.5, 1.5))
    await kill_writer(scene.observer)


async def _pause(scene: Scene) -> None:
    """Somebody locks the most popular SKU and freezes: outside the database first, then inside."""
    await asyncio.sleep(PAUSE_SECONDS * scene.chance.uniform(0.3, 0.6))
    if scene.experiment.strategy in DISTRIBUTED_STRATEGIES:
        await freeze_holder(scene.experiment, scene.url)
    async with locked_rows(scene.observer, scene.experiment.sku_names[0]):
        await asyncio.sleep(PAUSE_SECONDS)


async def _drop(scene: Scene) -> None:
    """Every connection breaks at once, as in a failover or behind a proxy that restarts."""
    await asyncio.sleep(DROP_SECONDS * scene.chance.uniform(0.5, 1.5))
    await drop_connections(scene.observer)


async def _nothing(_scene: Scene) -> None:
    await asyncio.sleep(3600)


FAULTS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "none": _nothing,
    "kill": _kill,
    "pause": _pause,
    "drop": _drop,
}
