"""The command line: serve, keys, limits, audit, migrations, imports, orders' replay, the lab."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from db.embedded.server import EmbeddedError
from db.session.database import DatabaseError
from service.cli.lazy_group import LazyGroup

COMMANDS = {
    "serve": "service.cli.serve:serve",
    "key": "service.cli.keys:key",
    "limits": "service.cli.limits:limits",
    "audit": "service.cli.audit:audit",
    "db": "service.cli.schema:db",
    "import": "service.cli.stock_import:import_stock",
    "replay": "service.cli.replay:replay",
    "lab": "service.cli.lab:lab",
}
"""The module and the name of each command; a module is imported only when its command runs."""


def main() -> None:
    """Run the command line; report a foreseen failure as one sentence on stderr and exit 1."""
    _avoid_unreadable_home()
    try:
        cli(prog_name="holdfast")
    except (DatabaseError, EmbeddedError, OSError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        click.echo(f"holdfast: {str(error) or type(error).__name__}{cause}", err=True)
        sys.exit(1)


@click.group(
    cls=LazyGroup,
    commands_by_name=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="holdfast")
def cli() -> None:
    """Holdfast reserves inventory over HTTP: exactly once, never below zero."""


def _avoid_unreadable_home() -> None:
    """Set HOME to a directory that does not exist if this user may not enter the real one.

    The database driver looks there for certificates, and it fails if it may not look.
    """
    with suppress(RuntimeError):  # a user without a name has no home; the driver handles that
        if not os.access(Path.home(), os.X_OK):
            os.environ["HOME"] = "/nonexistent"
