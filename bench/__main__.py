"""`make bench`: Holdfast against a bare route and a textbook service, on one machine, in one run.

All three serve at once from one PostgreSQL (fsync and synchronous_commit on) and are loaded in
turn, round by round, so that a noisy machine is noisy for all. Figures are medians; ratios are
what counts.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.load import Measured, check_wrk, load

HOLDFAST, BARE, TEXTBOOK = "holdfast", "bare route", "textbook"
HEADINGS = ("case", "service", "requests/s", "p50 ms", "p99 ms", "not 2xx", "holdfast is")
LOAD_BEFORE = os.getloadavg()
PAGE = """# Benchmarks

Made by `{command}` on {day}: {cores} cores, shared by the load generator (wrk), the services and
PostgreSQL 18 (fsync and synchronous_commit on), Python {python}, load average {load} at the start.

Only the ratios mean something, and only within this run: the services stand side by side and are
loaded in turn, {rounds} rounds of {seconds} seconds each; figures are medians, ratios have their
smallest and largest in brackets. *hot* is one SKU and 64 connections, *idle* one SKU and one
connection.

{table}

- **bare route** is the limit: a Litestar route on the same server that validates the same body and
  builds the same answer, and writes nothing (`bench/services/bare.py`).
- **textbook** is what teams write: FastAPI, SQLAlchemy's ORM, `SELECT … FOR UPDATE`, a transaction
  for each request (`bench/services/textbook.py`). It keeps no ledger and replays nothing.
"""
CASES = (("hot", 1, 64), ("10,000 SKUs", 10_000, 64), ("idle", 1, 1))
"""(name, SKUs, connections)"""


def main() -> None:
    """Run every case and print the table; `--json` writes the figures too."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    parser.add_argument("--report", type=Path, help="write a page with the table here")
    options = parser.parse_args()
    check_wrk()
    console = Console()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        urls, key = stack.enter_context(running_services(Path(directory)))
        rounds = [(case, name) for _ in range(options.rounds) for case in CASES for name in urls]
        results: dict[tuple[str, str], list[Measured]] = {}
        for number, (case, name) in enumerate(track(rounds, "measuring", console=console)):
            case_name, skus, connections = case
            measured = load(
                urls[name],
                key=key,
                prefix=f"{number}",
                skus=skus,
                connections=connections,
                seconds=options.seconds,
            )
            results.setdefault((case_name, name), []).append(measured)
    rows = summarize(results)
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if options.json:
        everything = [
            {"case": case, "service": name, "rounds": [asdict(one) for one in measured]}
            for (case, name), measured in results.items()
        ]
        options.json.write_text(json.dumps(everything, indent=2))
    if options.report:
        options.report.write_text(page(rows, options.rounds, options.seconds))


def summarize(results: dict[tuple[str, str], list[Measured]]) -> list[list[str]]:
    """Return a row for each case and service: medians, and how Holdfast compares."""
    rows = []
    for (case, name), measured in results.items():
        ours = results[case, HOLDFAST]
        ratios = [
            mine.requests_per_second / theirs.requests_per_second
            for mine, theirs in zip(ours, measured, strict=True)
        ]
        rows.append(
            [
                case,
                name,
                f"{statistics.median(one.requests_per_second for one in measured):,.0f}",
                f"{statistics.median(one.p50_milliseconds for one in measured):.2f}",
                f"{statistics.median(one.p99_milliseconds for one in measured):.2f}",
                str(sum(one.refused for one in measured)),
                f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    return rows


def page(rows: list[list[str]], rounds: int, seconds: int) -> str:
    """Return docs/benchmarks.md."""
    lines = [
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return PAGE.format(
        command=f"make bench ARGS='--rounds {rounds} --seconds {seconds} --report …'",
        table="\n".join(lines),
        rounds=rounds,
        seconds=seconds,
        cores=os.cpu_count(),
        python=platform.python_version(),
        day=time.strftime("%Y-%m-%d"),
        load=f"{LOAD_BEFORE[0]:.2f}",
    )


@contextlib.contextmanager
def running_services(directory: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Start all three; yield their addresses and the key that works for all."""
    with contextlib.ExitStack() as stack:
        holdfast = [sys.executable, "-m", "service", "serve", "--port", "8101"]
        stack.enter_context(process([*holdfast, "--data-dir", str(directory)]))
        wait_for("http://127.0.0.1:8101/health/ready")
        key = (directory / "admin.key").read_text().strip()
        seed("http://127.0.0.1:8101", key, 10_000)
        url = (directory / "database.url").read_text().strip()
        environment = {
            "BENCH_DATABASE_URL": url.replace("postgresql://", "postgresql+asyncpg://"),
            "BENCH_SKUS": "10000",
        }
        uvicorn = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning"]
        for module, port in (("bare", "8102"), ("textbook", "8103")):
            application = f"bench.services.{module}:app"
            stack.enter_context(process([*uvicorn, application, "--port", port], **environment))
        wait_for("http://127.0.0.1:8102/")
        wait_for("http://127.0.0.1:8103/")
        addresses = {
            HOLDFAST: "http://127.0.0.1:8101",
            BARE: "http://127.0.0.1:8102",
            TEXTBOOK: "http://127.0.0.1:8103",
        }
        yield addresses, key


@contextlib.contextmanager
def process(command: list[str], **environment: str) -> Iterator[None]:
    """Run a server until the end of the block."""
    running = subprocess.Popen(  # noqa: S603 - our own command line
        command, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(timeout=30)


def wait_for(url: str) -> None:
    """Return when anything answers there; give up after a minute."""
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        try:
            urllib.request.urlopen(url, timeout=1)  # noqa: S310 - loopback
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing answers at {url}")


def seed(url: str, key: str, skus: int) -> None:
    """Import plenty of stock."""
    rows = "".join(f"S{number},main,1000000000\n" for number in range(1, skus + 1))
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{url}/v1/imports?job=bench",
        data=f"sku,location,available\n{rows}".encode(),
        headers={"Content-Type": "text/csv", "Authorization": f"Bearer {key}"},
    )
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - loopback


if __name__ == "__main__":
    main()
