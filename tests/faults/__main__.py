"""`make campaign`: many random faults, drawn from a seed; it prints its figures as JSON.

    make campaign ARGS="--service-kills 1000 --postgresql-kills 100 --seed 7"

ends after the planned faults, or earlier after --minutes. It stops at the first broken promise and
prints the seed. The same seed draws the same faults at the same moments.
"""

import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults.campaign import Broken, Figures, draw, run_campaign


@click.command()
@click.option("--service-kills", default=1000, help="Kills of a worker or the supervisor.")
@click.option("--postgresql-kills", default=100, help="Kills of PostgreSQL or of everything.")
@click.option("--others", default=50, help="Freezes, outages, restarts, terminated sessions.")
@click.option("--minutes", default=60.0, help="Stop causing faults after that long.")
@click.option("--freeze-seconds", default=30.0, help="How long PostgreSQL is frozen each time.")
@click.option("--outage-seconds", default=20.0, help="How long each outage of PostgreSQL takes.")
@click.option("--seed", default=None, type=int, help="Draw the same faults again.")
@click.option("--only", default=None, help="Cause only this fault, in place of all others.")
@click.option("--figures", "figures_file", default="campaign.json", help="The file of figures.")
def campaign(
    service_kills: int,
    postgresql_kills: int,
    others: int,
    minutes: float,
    freeze_seconds: float,
    outage_seconds: float,
    seed: int | None,
    only: str | None,
    figures_file: str,
) -> None:
    """Cause every kind of fault in a running service, and check that nothing was lost."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    counts = {"service": service_kills, "postgresql": postgresql_kills, "other": others}
    plan = [only] * sum(counts.values()) if only else draw(seed, counts)
    console = Console()
    console.print(f"{len(plan)} faults, seed {seed}; at most {minutes:g} minutes")
    with bar(console) as progress, tempfile.TemporaryDirectory(prefix="holdfast-") as directory:
        task = progress.add_task("", total=len(plan), fault="starting", acks=0)

        def told(name: str, figures: Figures) -> None:
            progress.update(task, advance=1, fault=name, acks=figures.acknowledged)

        try:
            figures = asyncio.run(
                run_campaign(
                    Path(directory),
                    seed,
                    until(plan, minutes),
                    told=told,
                    freeze_seconds=freeze_seconds,
                    outage_seconds=outage_seconds,
                )
            )
        except Broken as broken:
            console.print(f"[red]{broken}")
            sys.exit(1)
    Path(figures_file).write_text(json.dumps(figures.as_json(), indent=2) + "\n")
    console.print_json(data=figures.as_json())


def until(plan: list[str], minutes: float) -> Iterator[str]:
    """The faults of the plan, until the minutes have passed."""
    give_up_at = time.monotonic() + minutes * 60
    for name in plan:
        if time.monotonic() > give_up_at:
            return
        yield name


def bar(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[acks]} acks, last: {task.fields[fault]}"),
        console=console,
    )


if __name__ == "__main__":
    campaign()
