"""`holdfast db`: the schema of the database."""

from collections.abc import Coroutine
from typing import Any

import click

from db.migrate import upgrade
from db.session.database import Database
from service.cli.database import with_settings
from service.cli.options import settings_options
from service.settings import Settings


@click.group()
def db() -> None:
    """Maintain the database."""


@db.command("upgrade")
@settings_options("database_url", "migrate_database_url", "data_dir")
def upgrade_database(**given: Any) -> None:
    """Migrate the schema to this version. Repeated and concurrent calls are safe."""

    def work(database: Database, settings: Settings) -> Coroutine[Any, Any, None]:
        return upgrade(database, settings.migrate_database_url)

    with_settings(given, work)
    click.echo("the schema is up to date")
