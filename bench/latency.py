"""`make bench-latency`: the latency at a fixed rate of arrivals, and in a flood.

The capacity is the rate that 64 connections reach. Below it, requests arrive at shares of that
rate and never wait for earlier answers. Beyond it, the crowd has up to eighty times as many
connections and ignores Retry-After, while a few other clients reserve other SKUs.
"""

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track

from bench import arrivals
from bench.cases import CAREFUL, HOLDFAST
from bench.load import SKUS_MAX, Load, Measured, check_wrk, load
from bench.options import measurement_parser
from bench.page import command_line, load_average, made_by, markdown, show, spread
from bench.rounds import median, rate
from bench.stand import Stand, running

CROWD = 64
SHARES = (0.25, 0.5, 0.75, 0.9)
CROWDS = (64, 640, 1_280, 2_560, 5_120)
OTHERS_PER_SECOND = 100.0
HEAD_START_SECONDS = 1.5  # the crowd begins this long before the others are measured
GOODPUT_AT_LEAST, OTHERS_AT_MOST = 0.9, 2.0
FILES = 16_384

SHARE_HEADINGS = (
    "service",
    "of capacity",
    "arrivals/s",
    "answered/s",
    "p50 ms",
    "p99 ms",
    "not 2xx",
)
FLOOD_HEADINGS = (
    "connections", "reserved/s", "of the peak", "refused/s", "others p50 ms", "others p99 ms",
    "of their own", "others not 2xx",
)  # fmt: skip

PAGE = """# Latency

{made_by}

## At a fixed rate of arrivals

Each request is for one unit of one of {skus:,} SKUs. Requests are due at random moments, at a fixed
rate on average, whether earlier ones are answered or not (an open loop). Latency counts from the
moment at which a request was due. *Capacity* is the rate that {crowd} connections reached in this
run when each sent its next request at once. Medians of {rounds} rounds of {seconds} seconds.

{shares}

## In a flood

Many connections want the same SKU, ask again as soon as they are answered, and ignore Retry-After.
Meanwhile {others:g} requests a second arrive for other SKUs: the *others*. *Peak* is the largest
number of reservations a second among the rows of a round. *Of their own* compares the others' p99
with their p99 beside {crowd} connections. The goals: {goodput:g} of the peak, and a p99 of the
others within {at_most:g} times their own.

{flood}
"""


@dataclass(frozen=True, slots=True)
class Flood:
    """The figures of a crowd and of the others."""

    crowd: Measured
    others: Measured
    seconds: float

    @property
    def reserved(self) -> float:
        """Reservations of the crowd per second."""
        return self.crowd.requests_per_second - self.refused

    @property
    def refused(self) -> float:
        """Refusals of the crowd per second."""
        return self.crowd.refused / self.seconds


def main() -> None:
    """Measure fixed rates and floods, and print the tables."""
    options = _options()
    check_wrk()
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    load_before = load_average()
    with tempfile.TemporaryDirectory() as directory:
        with running(Path(directory), {HOLDFAST, CAREFUL}) as stand:
            capacities = {name: capacity(stand, name, options.seconds) for name in stand.urls}
            paced = arrive(stand, capacities, options.rounds, options.seconds)
        with running(Path(directory, "flood"), {HOLDFAST}) as stand:
            flooded = flood(stand, options.rounds, options.seconds)
    tables = {"shares": share_rows(capacities, paced), "flood": flood_rows(flooded)}
    show(SHARE_HEADINGS, tables["shares"])
    show(FLOOD_HEADINGS, tables["flood"])
    if options.json:
        options.json.write_text(json.dumps(_figures(capacities, paced, flooded), indent=2))
    if options.report:
        options.report.write_text(
            PAGE.format(
                made_by=made_by(command_line("bench-latency"), load_before),
                skus=SKUS_MAX,
                crowd=CROWD,
                rounds=options.rounds,
                seconds=options.seconds,
                shares=markdown(SHARE_HEADINGS, tables["shares"]),
                others=OTHERS_PER_SECOND,
                goodput=GOODPUT_AT_LEAST,
                at_most=OTHERS_AT_MOST,
                flood=markdown(FLOOD_HEADINGS, tables["flood"]),
            )
        )


def capacity(stand: Stand, name: str, seconds: int) -> float:
    """Return the rate of a closed loop after a warm-up."""
    for prefix in ("warm", "capacity"):
        sent = Load(skus=SKUS_MAX, connections=CROWD)
        measured = load(stand.urls[name], key=stand.key, prefix=prefix, sent=sent, seconds=seconds)
    return measured.requests_per_second


def arrive(
    stand: Stand, capacities: dict[str, float], rounds: int, seconds: int
) -> dict[tuple[str, float], list[Measured]]:
    """Send requests at each share of each service's capacity, round by round."""
    turns = [
        (name, share, number) for number in range(rounds) for share in SHARES for name in capacities
    ]
    results: dict[tuple[str, float], list[Measured]] = {}
    for name, share, number in track(turns, "arriving"):
        measured = arrivals.measure(
            stand.urls[name],
            key=stand.key,
            prefix=f"{share}/{number}",
            sent=Load(skus=SKUS_MAX),
            rate=share * capacities[name],
            seconds=seconds,
        )
        results.setdefault((name, share), []).append(measured)
    return results


def flood(stand: Stand, rounds: int, seconds: int) -> dict[int, list[Flood]]:
    """Run a crowd of each size, round by round."""
    capacity(stand, HOLDFAST, seconds)  # only to warm up
    results: dict[int, list[Flood]] = {}
    turns = [(size, number) for number in range(rounds) for size in CROWDS]
    for size, number in track(turns, "flooding"):
        results.setdefault(size, []).append(one_flood(stand, size, f"{size}/{number}", seconds))
    return results


def one_flood(stand: Stand, size: int, prefix: str, seconds: int) -> Flood:
    """Measure a crowd and, while it runs, the others."""
    url, crowds = stand.urls[HOLDFAST], []
    crowd_seconds = seconds + 2 * round(HEAD_START_SECONDS)

    def come() -> None:
        sent = Load(connections=size)
        crowds.append(load(url, key=stand.key, prefix=prefix, sent=sent, seconds=crowd_seconds))

    coming = threading.Thread(target=come)
    coming.start()
    time.sleep(HEAD_START_SECONDS)
    others = arrivals.measure(
        url,
        key=stand.key,
        prefix=f"{prefix}/other",
        sent=Load(skus=SKUS_MAX),
        rate=OTHERS_PER_SECOND,
        seconds=seconds,
    )
    coming.join()
    return Flood(crowds[0], others, crowd_seconds)


def share_rows(
    capacities: dict[str, float], paced: dict[tuple[str, float], list[Measured]]
) -> list[list[str]]:
    """Return a row for each service and share."""
    return [
        [
            name,
            f"{share:g}",
            f"{share * capacities[name]:,.0f}",
            f"{median(measured, rate):,.0f}",
            f"{median(measured, lambda one: one.p50_milliseconds):.1f}",
            f"{median(measured, lambda one: one.p99_milliseconds):.1f}",
            str(sum(one.refused + one.failed for one in measured)),
        ]
        for (name, share), measured in sorted(paced.items(), reverse=True)
    ]


def flood_rows(flooded: dict[int, list[Flood]]) -> list[list[str]]:
    """Return a row for each size of the crowd."""
    peaks = [max(one.reserved for one in turn) for turn in zip(*flooded.values(), strict=True)]
    own = [one.others.p99_milliseconds for one in flooded[CROWD]]
    return [
        [
            f"{size:,}",
            f"{statistics.median(one.reserved for one in floods):,.0f}",
            spread([one.reserved / peak for one, peak in zip(floods, peaks, strict=True)]),
            f"{statistics.median(one.refused for one in floods):,.0f}",
            f"{statistics.median(one.others.p50_milliseconds for one in floods):,.1f}",
            f"{statistics.median(one.others.p99_milliseconds for one in floods):,.1f}",
            spread(
                [
                    one.others.p99_milliseconds / their_own
                    for one, their_own in zip(floods, own, strict=True)
                ]
            ),
            str(sum(one.others.refused + one.others.failed for one in floods)),
        ]
        for size, floods in flooded.items()
    ]


def _figures(
    capacities: dict[str, float],
    paced: dict[tuple[str, float], list[Measured]],
    flooded: dict[int, list[Flood]],
) -> dict[str, object]:
    return {
        "capacities": capacities,
        "arrivals": [
            {"service": name, "share": share, "rounds": [asdict(one) for one in measured]}
            for (name, share), measured in paced.items()
        ],
        "floods": [
            {"connections": size, "rounds": [asdict(one) for one in floods]}
            for size, floods in flooded.items()
        ],
    }


def _options() -> argparse.Namespace:
    parser = measurement_parser("bench.latency", __doc__, rounds=3, seconds=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
