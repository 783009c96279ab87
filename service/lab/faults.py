"""The faults of an experiment, repeated until it ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from db.lab.observation import Observer, drop_connections, kill_writer, locked_rows
from db.vocabulary import DISTRIBUTED_STRATEGIES
from service.lab.experiment import Experiment
from service.lab.holder import freeze_holder

KILL_SECONDS = 0.25  # between two kills: each costs a service a new connection
DROP_SECONDS = 1.0  # a database that loses all connections does so rarely
PAUSE_SECONDS = 1.5  # longer than the lock timeout of 1 s, so that waiting transactions give up


@dataclass(frozen=True, slots=True)
class FaultContext:
    """The things that a fault acts on."""

    experiment: Experiment
    url: str
    observer: Observer
    chance: random.Random


async def disturb(experiment: Experiment, url: str, observer: Observer) -> None:
    """Repeat the experiment's fault until cancelled."""
    chance = random.Random(experiment.seed)  # noqa: S311 - repeatable
    context = FaultContext(experiment, url, observer, chance)
    while True:
        await _DISTURBANCES[experiment.fault](context)


async def _kill(context: FaultContext) -> None:
    """Kill a session that holds locks."""
    await asyncio.sleep(KILL_SECONDS * context.chance.uniform(0.5, 1.5))
    await kill_writer(context.observer)


async def _pause(context: FaultContext) -> None:
    """Pause the holder of the most popular SKU's lock: first outside the database, then inside."""
    await asyncio.sleep(PAUSE_SECONDS * context.chance.uniform(0.3, 0.6))
    if context.experiment.strategy in DISTRIBUTED_STRATEGIES:
        await freeze_holder(context.experiment, context.url)
    async with locked_rows(context.observer, context.experiment.sku_names[0]):
        await asyncio.sleep(PAUSE_SECONDS)


async def _drop(context: FaultContext) -> None:
    """Break all connections at once, as a failover or a restarting proxy does."""
    await asyncio.sleep(DROP_SECONDS * context.chance.uniform(0.5, 1.5))
    await drop_connections(context.observer)


async def _nothing(_scene: FaultContext) -> None:
    await asyncio.sleep(3600)


_DISTURBANCES: dict[str, Callable[[FaultContext], Awaitable[None]]] = {
    "none": _nothing,
    "kill": _kill,
    "pause": _pause,
    "drop": _drop,
}
