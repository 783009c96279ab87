"""`make bench-attacks`: the effect of expensive requests on the worker and on other clients.

The other clients reserve at a fixed rate, and their p99 is measured before and during each attack.
The worker's memory is measured before the attack, and its largest value during the attack.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.progress import track

from bench import arrivals
from bench.attackers import ATTACKS
from bench.cases import HOLDFAST
from bench.filling import fill
from bench.load import Load, Measured
from bench.observation import find_workers, resident_bytes
from bench.options import measurement_parser
from bench.page import command_line, load_average, made_by, markdown, show
from bench.stand import Stand, serve
from db.embedded.roles import Role
from db.session.database import Database
from service.http.access.keys import new_key, store_key

OTHERS_PER_SECOND = 100.0
OTHER_SKUS = 10_000
HEAD_START_SECONDS = 1.0  # the attack begins this long before the others are measured
STORED_RESERVATIONS = 400_000
FILES = 16_384
LIMITED = "noisy"
"""The source of an attacker that has a rate limit."""
NOISY_AT_MOST = 1.5
AT_MOST, MEBIBYTES_AT_MOST = 2.0, 64

HEADINGS = (
    "attack", "requests/s", "MB/s", "answers", "p99 before", "p99 during", "ratio", "memory",
)  # fmt: skip

PAGE = """# Attacks

{made_by}

{others:g} reservations a second arrive for {skus:,} SKUs (an open loop) at one worker, in a
database that holds {stored:,} reservations: the *others*. *Before* and *during* are the p99 of the
others in milliseconds, each measured for {seconds} seconds. The goal is a ratio of at most
{at_most:g}. *Memory* is the largest growth of the worker's memory, in MiB; the goal is at most
{memory_at_most}. *Requests* and *MB* a second are the rates of the attack, from {rounds} rounds.

{table}

The attackers never pause. On a machine with two cores they share these with the others, the worker
and PostgreSQL. A ratio above {at_most:g} has one of two reasons. Either the kernel and the attacker
take the cores to move the bytes (the head of 50 MB, the key of 5 MB, the unfinished bodies), or a
step that can't be interrupted is long. The check that 4 MiB are JSON takes 7 to 15 ms in C, and
requests that arrive meanwhile wait for it (the batches). After a body that took long to check, the
next large body of the same key waits ten times as long before it is read. This limits such steps to
a tenth of the time. One request in ten meets such a step, so the 99th percentile does too.

The noisy source exceeds its rate limit tenfold; there the goal is a ratio of at most
{noisy_at_most:g}.

{descriptions}
"""


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round of an attack."""

    before: Measured
    during: Measured
    requests_per_second: float
    megabytes_per_second: float
    answers: dict[str, int]
    memory_bytes: int


def main() -> None:
    """Measure every attack and print the table."""
    options = _options()
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    load_before = load_average()
    chosen = [name for name in ATTACKS if not options.only or name.startswith(tuple(options.only))]
    rounds: dict[str, list[Round]] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        stand = Stand()
        serve(stack, stand, HOLDFAST, Path(directory))
        url = stand.database_url(Role.SUPERUSER)  # filling drops the indexes for a while
        asyncio.run(fill(url, OTHER_SKUS, STORED_RESERVATIONS, lambda *_: None))
        measure_others(stand, "warm", options.seconds)
        turns = [(name, turn) for turn in range(options.rounds) for name in chosen]
        for name, turn in track(turns, "attacking"):
            rounds.setdefault(name, []).append(attack_round(stand, name, turn, options.seconds))
    table = [row(name, measured) for name, measured in rounds.items()]
    show(HEADINGS, table)
    if options.json:
        figures = {name: [asdict(each) for each in measured] for name, measured in rounds.items()}
        options.json.write_text(json.dumps(figures, indent=2))
    if options.report:
        options.report.write_text(
            PAGE.format(
                made_by=made_by(command_line("bench-attacks"), load_before),
                others=OTHERS_PER_SECOND,
                skus=OTHER_SKUS,
                stored=STORED_RESERVATIONS,
                seconds=options.seconds,
                rounds=options.rounds,
                at_most=AT_MOST,
                noisy_at_most=NOISY_AT_MOST,
                memory_at_most=MEBIBYTES_AT_MOST,
                table=markdown(HEADINGS, table),
                descriptions="\n".join(
                    f"- {name}: {ATTACKS[name].description}, {ATTACKS[name].connections} at once"
                    for name in rounds
                ),
            )
        )


def attack_round(stand: Stand, name: str, turn: int, seconds: int) -> Round:
    """Attack once, and measure the others before and during the attack."""
    (worker,) = find_workers(stand.process_ids[HOLDFAST])
    before = measure_others(stand, f"{name}/{turn}/before", seconds)
    at_rest, largest, has_ended = resident_bytes(worker), [0], threading.Event()

    def watch() -> None:
        while not has_ended.wait(0.02):
            largest[0] = max(largest[0], resident_bytes(worker))

    watching = threading.Thread(target=watch)
    watching.start()
    attack_seconds = seconds + 2 * HEAD_START_SECONDS
    told: list[dict[str, Any]] = []
    attacking = threading.Thread(
        target=lambda: told.append(attack(stand, name, attack_seconds)), daemon=True
    )
    attacking.start()
    time.sleep(HEAD_START_SECONDS)
    during = measure_others(stand, f"{name}/{turn}/during", seconds)
    attacking.join()
    has_ended.set()
    watching.join()
    time.sleep(HEAD_START_SECONDS)  # the service finishes the attack's last requests meanwhile
    return Round(
        before,
        during,
        told[0]["requests"] / attack_seconds,
        told[0]["bytes_sent"] / attack_seconds / 1e6,
        told[0]["answers"],
        largest[0] - at_rest,
    )


def attack(stand: Stand, name: str, seconds: float) -> dict[str, Any]:
    """Attack from a separate process; return its tally."""
    command = [sys.executable, "-m", "bench.attackers", name, "--url", stand.urls[HOLDFAST]]
    printed = subprocess.run(  # noqa: S603 - our own command line
        [*command, "--seconds", f"{seconds}"],
        input=key_of(stand, name),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds + 120,
    ).stdout
    told: dict[str, Any] = json.loads(printed)
    return told


def key_of(stand: Stand, name: str) -> str:
    """Return the key of an attack: the common one, or that of a source with a limit of its own."""
    if not ATTACKS[name].limit:
        return stand.key
    return asyncio.run(_limited_key(stand, ATTACKS[name].limit))


async def _limited_key(stand: Stand, per_second: int) -> str:
    database, key = Database(stand.database_url(), pool_size=1), new_key()
    try:
        await store_key(database, key, LIMITED, ["reserve"])
    finally:
        await database.close()
    async with httpx.AsyncClient(base_url=stand.urls[HOLDFAST]) as client:
        answer = await client.put(
            f"/v1/sources/{LIMITED}/limits",
            headers={"Authorization": f"Bearer {stand.key}"},
            json={"requests_per_second": per_second},
        )
    answer.raise_for_status()
    return key


def measure_others(stand: Stand, prefix: str, seconds: int) -> Measured:
    """Let the others reserve for some seconds."""
    return arrivals.measure(
        stand.urls[HOLDFAST],
        key=stand.key,
        prefix=prefix.replace(" ", "-"),
        sent=Load(skus=OTHER_SKUS),
        rate=OTHERS_PER_SECOND,
        seconds=seconds,
    )


def row(name: str, rounds: list[Round]) -> list[str]:
    """Return the row of an attack: medians, and the largest growth of memory."""
    answers: Counter[str] = Counter()
    for each in rounds:
        answers.update(each.answers)
    ratios = [each.during.p99_milliseconds / each.before.p99_milliseconds for each in rounds]
    lost = sum(each.during.refused + each.during.failed for each in rounds)
    return [
        name,
        f"{statistics.median(each.requests_per_second for each in rounds):,.0f}",
        f"{statistics.median(each.megabytes_per_second for each in rounds):,.1f}",
        ", ".join(f"{count:,} of {answer}" for answer, count in answers.most_common(3)) or "none",
        f"{statistics.median(each.before.p99_milliseconds for each in rounds):,.1f}",
        f"{statistics.median(each.during.p99_milliseconds for each in rounds):,.1f}",
        f"{statistics.median(ratios):.2f}" + (f" ({lost} not 2xx)" if lost else ""),
        f"{max(each.memory_bytes for each in rounds) / 2**20:.0f}",
    ]


def _options() -> argparse.Namespace:
    parser = measurement_parser("bench.attacks", __doc__, rounds=3, seconds=8)
    parser.add_argument(
        "--only", nargs="*", help="only attacks whose names begin with one of these texts"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
