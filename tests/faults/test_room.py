"""Exhausted resources, such as a full disk or queue: clients get an error until there is room."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from db.embedded.server import EmbeddedError, EmbeddedPostgres
from db.session.database import Timeouts
from service.domain.commands import Command, Outcome
from service.domain.errors import Overloaded
from service.engine.coalescer import Coalescer
from service.engine.ledger import Ledger
from tests.brokers import missing
from tests.conftest import assert_books_balance, running_service
from tests.faults.acknowledged import AcknowledgedLog
from tests.faults.shoppers import Shoppers
from tests.faults.standby import open_directory
from tests.server import running_server
from tests.test_coalescer import reserve, working


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A separate file system of 160 MB."""
    with open_directory() as directory:
        mount = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", str(directory)]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            missing("a tmpfs can only be mounted by root")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def test_a_full_disk_is_503_until_there_is_space_again_and_no_ack_is_false(
    small_disk, tmp_path
):
    """PostgreSQL's log is on the full disk too: PostgreSQL panics, and starts again when it can."""
    small = {"max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "16MB"}
    with (
        EmbeddedPostgres(small_disk, settings=small) as postgres,
        closing(AcknowledgedLog(tmp_path / "acknowledged")) as log,
        running_server(
            postgres.addresses.serving, migrate_database_url=postgres.addresses.migrating
        ) as server,
    ):
        shoppers = Shoppers(server.url, server.headers, log, seed=15)
        await shoppers.open_shop()
        async with shoppers.shopping(8):
            await shoppers.progress(40, 30)
            restoring = asyncio.create_task(keep_running(postgres))
            ballast = small_disk / "ballast"
            async with asyncio.timeout(60):
                while not shoppers.answers["503 unavailable"]:
                    await asyncio.to_thread(fill, ballast)
                    await asyncio.sleep(0.1)
            ballast.unlink()
            await shoppers.progress(40, 60)
            restoring.cancel()
        assert await log.lost(postgres.url) == []
        assert await log.contradicted(postgres.url) == []
        assert shoppers.answers["none"] == 0
        assert not any(answer.startswith("500") for answer in shoppers.answers)
        await assert_books_balance(postgres.url)


def fill(ballast: Path) -> None:
    """Take all the room that is left; PostgreSQL may have removed files since the last call."""
    with ballast.open("ab") as file:
        while (free := shutil.disk_usage(ballast.parent).free) > 0:
            try:
                file.write(bytes(min(free, 1 << 20)))
                file.flush()
            except OSError:
                return


async def keep_running(postgres: EmbeddedPostgres) -> None:
    """Restart PostgreSQL as the service restarts its private one: try again after a failure."""
    while True:
        with suppress(EmbeddedError):  # on a full disk its recovery fails, too
            postgres.ensure_running()
        await asyncio.sleep(0.2)


async def test_an_exhausted_pool_is_503_at_once_and_recovers(database_url):
    assert Timeouts().pool <= 0.5
    async with running_service(database_url, pool_size=3, sweeps=False) as service:
        await service.stock("A", 10)
        connections = [await service.database.pool.take() for _ in range(3)]
        answers = await asyncio.gather(
            *(service.reserve(str(n), ("A", 1)) for n in range(20)),
            *(service.client.get("/v1/stock/A/main") for _ in range(20)),
            service.client.get("/health/ready"),
        )
        for connection in connections:
            await service.database.pool.give_back(connection)
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["code"] for answer in answers} == {"unavailable"}
        assert all("retry-after" in answer.headers for answer in answers)
        assert [(await service.reserve(str(n), ("A", 1))).status_code for n in range(3)] == [
            201
        ] * 3


class Turns:
    """Wraps a ledger: lets one batch through at each turn and notes its size."""

    def __init__(self, ledger: Ledger) -> None:
        self.batches: list[int] = []
        self._turns = asyncio.Semaphore(0)
        self._done = asyncio.Event()
        self._execute = ledger.execute
        ledger.execute = self.execute  # type: ignore[method-assign]

    async def execute(self, commands: Sequence[Command], *more_wait: Any) -> list[Outcome]:
        await self._turns.acquire()
        outcomes = await self._execute(commands, *more_wait)
        self.batches.append(len(commands))
        self._done.set()
        return outcomes

    async def next(self) -> None:
        self._done.clear()
        self._turns.release()
        await self._done.wait()

    def open(self) -> None:
        """Let all later batches through."""
        for _ in range(2 * QUEUE):
            self._turns.release()


CAPACITY, QUEUE, ROUNDS = 10, 30, 40
"""Commands in a batch, commands that may be queued, and batches."""


@dataclass
class Flood:
    """Requests at ten times the capacity, nineteen of twenty for one SKU, and their results."""

    turns: Turns
    waited: Counter[int] = field(default_factory=Counter)
    """How many requests for the hot SKU waited for each number of batches."""
    elsewhere: Counter[int] = field(default_factory=Counter)
    """The same for requests for the other SKU."""
    shed: Counter[str] = field(default_factory=Counter)
    told_late: int = 0

    async def ask(self, coalescer: Coalescer, number: int, round_: int) -> None:
        sku = "A" if number % 20 else "B"
        try:
            await coalescer.submit([reserve(f"{round_}-{number}", sku)])
        except Overloaded:
            self.shed[sku] += 1
            self.told_late += len(self.turns.batches) - round_
        else:
            waited = self.waited if sku == "A" else self.elsewhere
            waited[len(self.turns.batches) - round_] += 1


async def flood(database_url: str, crowd_min: int) -> Flood:
    async with working(
        database_url,
        batch_lines_max=CAPACITY,
        lane_lines_max=CAPACITY,
        queued_commands_max=QUEUE,
        crowd_min=crowd_min,
        full_wait_seconds=0,
        full_wait_seconds_max=0,
    ) as coalescer:
        turns = Turns(coalescer.ledger)
        seen = Flood(turns)
        tasks = []
        for round_ in range(ROUNDS):
            tasks += [
                asyncio.create_task(seen.ask(coalescer, number, round_))
                for number in range(10 * CAPACITY)
            ]
            await asyncio.sleep(0)
            await turns.next()
        turns.open()
        await asyncio.gather(*tasks)
        return seen


async def test_at_ten_times_the_capacity_goodput_stays_and_other_skus_hardly_wait(database_url):
    """Every batch is full, and only requests of the crowd are refused, at once."""
    seen = await flood(database_url, crowd_min=CAPACITY)
    assert set(seen.turns.batches[:ROUNDS]) == {CAPACITY}
    assert seen.shed["A"] > 8 * CAPACITY * (ROUNDS - QUEUE // CAPACITY)
    assert (seen.shed["B"], seen.told_late) == (0, 0)
    assert max(seen.waited) <= 2 * QUEUE // CAPACITY + 2
    assert max(seen.elsewhere) <= 3


async def test_in_one_queue_with_the_crowd_other_skus_would_wait_and_be_shed(database_url):
    seen = await flood(database_url, crowd_min=10**9)
    assert seen.shed["B"] > ROUNDS
    assert max(seen.elsewhere) > 3
