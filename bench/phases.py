"""`make bench-phases`: where a batch's time goes, step by step, without a web server.

Processor time is the worker's; wall time is what the step took, PostgreSQL and waking up included.
"""

import argparse
import gc
import random
import statistics
import tempfile
import time
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from db.embedded.roles import Addresses
from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.rows import Line
from db.session.database import Database, Transaction
from db.strategies.guard import Guard, Held
from service.domain.commands import Reserve, SetStock, reservation_id, wanted_by
from service.domain.planner import plan
from service.engine.ledger import Ledger

PHASES = ("connect and BEGIN", "load", "plan", "apply", "COMMIT and close")
COMMANDS_PER_SIZE = 6_000  # enough batches for a median, few enough for a minute
WARM_UP = 10  # batches that prepare statements and fill caches


class Clock:
    """Notes what each phase took, in processor and wall microseconds."""

    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PHASES}

    def begin(self) -> None:
        """Begin with a batch."""
        self._last = time.process_time(), time.perf_counter()

    def end(self, phase: str) -> None:
        """Note that this phase is over and the next begins."""
        now = time.process_time(), time.perf_counter()
        self.taken[phase].append((1e6 * (now[0] - self._last[0]), 1e6 * (now[1] - self._last[1])))
        self.begin()


def main() -> None:
    """Measure batches of each size and print a table."""
    parser = argparse.ArgumentParser(prog="bench.phases", description=__doc__)
    parser.add_argument("--skus", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 32, 500])
    options = parser.parse_args()
    table = Table("commands", "phase", "processor µs", "wall µs", "wall µs per command")
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedPostgres(Path(directory)) as postgres,
    ):
        for size in options.sizes:
            clock = uvloop.run(measure(postgres.addresses, size, options.skus))
            for phase, taken in clock.taken.items():
                processor, wall = (
                    statistics.median(each[place] for each in taken[WARM_UP:]) for place in (0, 1)
                )
                table.add_row(
                    f"{size}", phase, f"{processor:,.0f}", f"{wall:,.0f}", f"{wall / size:,.1f}"
                )
    Console().print(table)


async def measure(addresses: Addresses, size: int, skus: int) -> Clock:
    """Carry out batches of reservations, one after another."""
    database = Database(addresses.serving, pool_size=2)
    await upgrade(database, addresses.migrating)
    names = [f"{size}-{number}" for number in range(skus)]
    for start in range(0, skus, 500):
        await Ledger(database, Guard()).execute(
            [SetStock(name, "main", 10**9, None, None, None) for name in names[start : start + 500]]
        )
    gc.collect()
    gc.freeze()
    clock, chance = Clock(), random.Random(1)
    for number in range(WARM_UP + max(20, COMMANDS_PER_SIZE // size)):
        batch = [reserve(f"{size}/{number}/{each}", chance.choice(names)) for each in range(size)]
        clock.begin()
        await carry_out(database, batch, clock)
    await database.close()
    return clock


async def carry_out(database: Database, batch: list[Reserve], clock: Clock) -> None:
    """Do what the ledger does, with a look at the clock after each step."""
    wanted = wanted_by(batch)

    async def work(transaction: Transaction) -> None:
        clock.end("connect and BEGIN")
        snapshot = await Guard().load(transaction.connection, wanted, locked=False)
        clock.end("load")
        planned = plan(snapshot, batch)
        clock.end("plan")
        await Guard().apply(transaction, planned.writes, Held())
        clock.end("apply")

    await database.transact(work)
    clock.end("COMMIT and close")


def reserve(seq: str, sku: str) -> Reserve:
    """Return a reservation of one unit."""
    line = Line(sku, "main", 1)
    return Reserve("bench", seq, None, (line,), None, {}, reservation_id("bench", seq))


if __name__ == "__main__":
    main()
