"""`holdfast audit`."""

import sys
from typing import Any

import click

from db.queries import audit as books
from service.cli.database import DATABASE_SETTINGS, with_database
from service.cli.options import settings_options


@click.command()
@settings_options(*DATABASE_SETTINGS)
@click.option("--seconds", default=3600, show_default=True, help="Time limit of the audit.")
def audit(seconds: int, **given: Any) -> None:
    """Check that stock, ledger and reservations agree.

    Exit 1 if they differ.
    """
    found = with_database(given, lambda database: books.audit(database, seconds_max=seconds))
    for drift in found.drift:
        click.echo("  ".join(f"{name}={value}" for name, value in drift.items()))
    verdict = f"DRIFT in {len(found.drift)} places" if found.drift else "balanced"
    click.echo(f"{verdict}: {found.stock} stock rows, {found.reservations} reservations checked")
    sys.exit(1 if found.drift else 0)
