"""Kills the primary under load again and again: `make failover ARGS="--rounds 20"`."""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import assert_books_balance
from tests.faults.acknowledged import AcknowledgedLog
from tests.faults.cluster import Cluster, Node, running_cluster
from tests.faults.shoppers import Shoppers
from tests.server import running_server

KINDS: dict[str, Callable[[Node], None]] = {"postgresql": Node.kill_postgres, "node": Node.kill}
"""Kill PostgreSQL alone, which Patroni notices at once, or the node, whose lease must expire."""

CLIENTS = 8
NORMAL = 40
"""Final answers that count as recovery."""
BACK_SECONDS_MAX = 15.0
"""Bound from the start of the new primary to the recovery of the service, on a busy machine."""


@dataclass
class Figures:
    """For each kill, the time without a primary, and the time from then to a final answer."""

    acknowledged: int = 0
    checked: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    without_primary_seconds: list[float] = field(default_factory=list)
    service_back_seconds: list[float] = field(default_factory=list)


async def kill_primaries(
    cluster: Cluster, kinds: Sequence[str], directory: Path, seed: int
) -> Figures:
    """Kill one primary after another under load; no ack may be lost, and the books must balance."""
    figures = Figures()
    with (
        running_server(cluster.url, workers=2) as server,
        closing(AcknowledgedLog(directory / "acknowledged")) as log,
    ):
        shoppers = Shoppers(server.url, server.headers, log, seed)
        await shoppers.open_shop()
        async with shoppers.shopping(CLIENTS):
            for kind in kinds:
                await cluster.await_standby()
                await shoppers.progress(NORMAL, BACK_SECONDS_MAX)
                await _kill_primary(cluster, kind, shoppers, figures)
                assert await log.lost(cluster.url) == []
        assert await log.lost(cluster.url) == []
        assert await log.contradicted(cluster.url) == []
        await assert_books_balance(cluster.url)
    assert not shoppers.answers["none"], "a request was not answered within its deadline"
    figures.acknowledged, figures.checked = log.count, len(log.latest)
    figures.answers = dict(shoppers.answers.most_common())
    return figures


async def _kill_primary(cluster: Cluster, kind: str, shoppers: Shoppers, figures: Figures) -> None:
    primary = await cluster.primary()
    assert primary is not None
    await asyncio.to_thread(KINDS[kind], primary)
    figures.without_primary_seconds.append(await cluster.await_primary(other_than=primary))
    figures.service_back_seconds.append(await shoppers.progress(NORMAL, BACK_SECONDS_MAX))
    if not primary.is_alive:
        primary.start()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    kinds = list(itertools.islice(itertools.cycle(KINDS), options.rounds))
    with tempfile.TemporaryDirectory() as directory, running_cluster() as cluster:
        await cluster.await_standby()
        await cluster.create_database()
        figures = await kill_primaries(cluster, kinds, Path(directory), options.seed)
    print(f"{options.rounds} primaries killed: {', '.join(kinds)}")
    print(
        f"acks on disk {figures.acknowledged}, of reservations {figures.checked}, lost 0, drift 0"
    )
    print("seconds without a primary", [round(each, 1) for each in figures.without_primary_seconds])
    print("then until an answer", [round(each, 2) for each in figures.service_back_seconds])
    print("answers", figures.answers)


if __name__ == "__main__":
    asyncio.run(main())
