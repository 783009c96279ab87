"""One fault after another under load; after each fault the acks and the books are checked."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from tests.conftest import assert_books_balance
from tests.faults.acknowledged import AcknowledgedLog
from tests.faults.shoppers import Contradiction, Shoppers
from tests.faults.world import FAULTS, POSTGRESQL_KILLS, SERVICE_KILLS, World, running_world

CLIENTS = 8
NORMAL = 40
"""Final answers after a fault that count as recovery."""
RECOVERY_SECONDS_MAX = 30.0
"""Bound for starting processes and recovery on a busy machine; the figures have the real times."""
PROMISED_SECONDS_MAX = {"freeze PostgreSQL": 10.0, "keep PostgreSQL down": 10.0}
"""Bound for recovery when no process of the service has to start."""
ROUNDS_BETWEEN_CHECKS = 10


class Broken(AssertionError):
    """A promise was broken; the message names it and the way to repeat it."""


@dataclass
class Figures:
    """The faults and the figures of a campaign."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    recovery_seconds: list[float] = field(default_factory=list)
    acknowledged: int = 0
    checked: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    slowest_answer_seconds: float = 0.0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        waits = sorted(self.recovery_seconds) or [0.0]
        return {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "service_kills": sum(self.faults[name] for name in SERVICE_KILLS),
            "postgresql_kills": sum(self.faults[name] for name in POSTGRESQL_KILLS),
            "faults": dict(sorted(self.faults.items())),
            "acknowledged": self.acknowledged,
            "acknowledged_and_lost": 0,
            "reservations_checked_against_their_last_answer": self.checked,
            "drift": 0,
            "recovery_seconds": {
                "median": round(waits[len(waits) // 2], 2),
                "largest": round(waits[-1], 2),
            },
            "slowest_answer_seconds": round(self.slowest_answer_seconds, 2),
            "answers": dict(self.answers.most_common()),
        }


def draw(seed: int, counts: dict[str, int]) -> list[str]:
    """The given numbers of service kills, PostgreSQL kills and other faults, in random order."""
    chance = random.Random(seed)
    groups = {
        "service": list(SERVICE_KILLS),
        "postgresql": list(POSTGRESQL_KILLS),
        "other": [name for name in FAULTS if name not in SERVICE_KILLS | POSTGRESQL_KILLS],
    }
    drawn = [chance.choice(groups[group]) for group, count in counts.items() for _ in range(count)]
    chance.shuffle(drawn)
    return drawn


async def run_campaign(
    directory: Path,
    seed: int,
    plan: Iterable[str],
    *,
    told: Callable[[str, Figures], None] = lambda _name, _figures: None,
    **durations: float,
) -> Figures:
    """Cause the planned faults. Raises `Broken` when an ack is lost or the books do not balance."""
    figures = Figures(seed)
    started = time.monotonic()
    with closing(AcknowledgedLog(directory / "acknowledged")) as log:
        async with running_world(directory, seed, **durations) as world:
            shoppers = Shoppers(world.url, world.headers, log, seed)
            await shoppers.open_shop()
            async with shoppers.shopping(CLIENTS):
                await shoppers.progress(NORMAL, RECOVERY_SECONDS_MAX)
                for round_, name in enumerate(plan, start=1):
                    await _cause(world, shoppers, name, figures)
                    if round_ % ROUNDS_BETWEEN_CHECKS == 0:
                        await _check_acks(world, log, figures)
                    figures.acknowledged = log.count
                    figures.seconds = time.monotonic() - started
                    told(name, figures)
            await _check_everything(world, log, figures)
    figures.answers, figures.slowest_answer_seconds = shoppers.answers, shoppers.slowest_seconds
    figures.acknowledged, figures.seconds = log.count, time.monotonic() - started
    if shoppers.answers["none"]:
        raise Broken(f"{shoppers.answers['none']} requests got no answer in time; seed {seed}")
    return figures


async def _cause(world: World, shoppers: Shoppers, name: str, figures: Figures) -> None:
    try:
        await FAULTS[name](world)
        before = time.monotonic()
        promised = PROMISED_SECONDS_MAX.get(name, RECOVERY_SECONDS_MAX)
        await shoppers.progress(NORMAL, promised)
    except TimeoutError as error:
        raise Broken(
            f"no recovery from {name!r}; seed {figures.seed}; answers {dict(shoppers.answers)}"
        ) from error
    except Contradiction as error:
        raise Broken(f"after {name!r}: {error}; seed {figures.seed}") from error
    figures.faults[name] += 1
    figures.recovery_seconds.append(time.monotonic() - before)


async def _check_acks(world: World, log: AcknowledgedLog, figures: Figures) -> None:
    async with asyncio.timeout(RECOVERY_SECONDS_MAX):
        lost = await log.lost(world.database_url)
    if lost:
        last = list(figures.faults)[-ROUNDS_BETWEEN_CHECKS:]
        raise Broken(f"acks were lost after {last}: {lost[:5]}; seed {figures.seed}")


async def _check_everything(world: World, log: AcknowledgedLog, figures: Figures) -> None:
    await _check_acks(world, log, figures)
    await _no_hold_is_left(world)
    contradicted = await log.contradicted(world.database_url)
    if contradicted:
        raise Broken(f"states differ from their acks: {contradicted[:5]}; seed {figures.seed}")
    figures.checked = len(log.latest)
    await assert_books_balance(world.database_url)


async def _no_hold_is_left(world: World) -> None:
    """Wait until the sweeper has expired all holds of one second, after all those kills."""
    connection = await asyncpg.connect(world.database_url)
    async with asyncio.timeout(RECOVERY_SECONDS_MAX):
        while await connection.fetchval(
            "SELECT count(*) FROM reservation WHERE state = 'held' AND hold_seconds = 1"
        ):
            await asyncio.sleep(0.1)
    await connection.close()
