"""`holdfast replay`."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import click

from service.cli.options import service_options
from service.replay.client import ClientError
from service.replay.orders_file import OrdersError
from service.replay.report import run_replay


def _checked_prefix(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Check that a prefix is valid as a location and leaves room in a seq."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise click.BadParameter(
            "must be 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    return value


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@service_options
@click.option(
    "--concurrency",
    default=16,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Number of orders to send at the same time.",
)
@click.option(
    "--prefix",
    default="replay",
    show_default=True,
    callback=_checked_prefix,
    help="The beginning of every seq, and the name of the location and of the import job."
    " A new prefix starts a new run.",
)
@click.option(
    "--stock-share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the bought units to put in stock; below 1 some orders are refused.",
)
@click.option(
    "--matches",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of cancellations and their purchases to compare with the matches found here.",
)
def replay(file: Path, url: str, api_key: str, **options: Any) -> None:
    """Send real orders to a service twice and check the results.

    FILE is a CSV file of orders, see docs/replay.md. Purchases become reservations, cancellations
    become refunds, and the rest become stock adjustments. In the second pass every answer must be
    a replay, and no stock may change. Exit 1 if a check fails.
    """
    try:
        failures = asyncio.run(run_replay(file, url, api_key, **options))
    except (ClientError, OrdersError) as error:
        raise click.ClickException(str(error)) from None
    for failure in failures:
        click.echo(f"DID NOT HOLD: {failure}", err=True)
    sys.exit(1 if failures else 0)
