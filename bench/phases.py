"""`make bench-phases`: the time of each step of a batch, without a web server.

Processor time is that of the worker. Wall time includes PostgreSQL and the wake-up of the process.
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
from db.strategies.guard import Guard
from db.strategies.strategy import HeldLocks
from service.domain.commands import Reserve, SetStock, wanted_by
from service.domain.identifiers import reservation_id
from service.domain.planner import plan
from service.engine.ledger import Ledger

PHASES = ("connect and BEGIN", "load", "plan", "apply", "COMMIT and close")
COMMANDS_PER_SIZE = 6_000  # enough batches for a median, few enough for a minute
WARM_UP = 10  # batches that prepare statements and fill caches


class PhaseClock:
    """Records the processor time and the wall time of each phase, in microseconds."""

    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PHASES}

    def begin(self) -> None:
        """Start the first phase of a batch."""
        self._last = time.process_time(), time.perf_counter()

    def end(self, phase: str) -> None:
        """End a phase and start the next one."""
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
                    statistics.median(each[kind] for each in taken[WARM_UP:]) for kind in (0, 1)
                )
                table.add_row(
                    f"{size}", phase, f"{processor:,.0f}", f"{wall:,.0f}", f"{wall / size:,.1f}"
                )
    Console().print(table)


async def measure(addresses: Addresses, size: int, skus: int) -> PhaseClock:
    """Carry out batches of reservations, one after another, and return their times."""
    database = Database(addresses.serving, pool_size=2)
    await upgrade(database, addresses.migrating)
    names = [f"{size}-{number}" for number in range(skus)]
    for start in range(0, skus, 500):
        await Ledger(database, Guard()).execute(
            [SetStock(name, "main", 10**9, None, None, None) for name in names[start : start + 500]]
        )
    gc.collect()
    gc.freeze()
    clock, chance = PhaseClock(), random.Random(1)
    for number in range(WARM_UP + max(20, COMMANDS_PER_SIZE // size)):
        batch = [reserve(f"{size}/{number}/{each}", chance.choice(names)) for each in range(size)]
        clock.begin()
        await carry_out(database, batch, clock)
    await database.close()
    return clock


async def carry_out(database: Database, batch: list[Reserve], clock: PhaseClock) -> None:
    """Take the steps of the ledger, and read the clock after each of them."""
    wanted = wanted_by(batch)

    async def work(transaction: Transaction) -> None:
        clock.end("connect and BEGIN")
        snapshot = await Guard().load(transaction.connection, wanted, locked=False)
        clock.end("load")
        planned = plan(snapshot, batch)
        clock.end("plan")
        await Guard().apply(transaction, planned.writes, HeldLocks())
        clock.end("apply")

    await database.transact(work)
    clock.end("COMMIT and close")


def reserve(seq: str, sku: str) -> Reserve:
    """Return a reservation of one unit."""
    line = Line(sku, "main", 1)
    return Reserve("bench", seq, None, (line,), None, {}, reservation_id("bench", seq))


if __name__ == "__main__":
    main()
