"""Work on the database that the settings name, or on the private PostgreSQL."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from db.embedded.server import DataDirectoryInUse, EmbeddedPostgres, find_addresses
from db.session.database import Database
from service.cli.options import read_settings
from service.settings import Settings

T = TypeVar("T")

DATABASE_SETTINGS = ("database_url", "data_dir")
"""The settings that a command needs to find the database."""


def with_database(given: dict[str, Any], work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the database of these settings, as the role that serves."""
    return with_settings(given, lambda database, _settings: work(database))


def with_settings(
    given: dict[str, Any], work: Callable[[Database, Settings], Coroutine[Any, Any, T]]
) -> T:
    """Run `work` on the database, with settings that hold the address of each role."""
    with _located(read_settings(given)) as settings:

        async def run() -> T:
            database = Database(str(settings.database_url), pool_size=3)
            try:
                return await work(database, settings)
            finally:
                await database.close()

        return asyncio.run(run())


@contextmanager
def _located(settings: Settings) -> Iterator[Settings]:
    """Yield settings that name the database; start the private PostgreSQL if it does not run."""
    if settings.database_url is not None:
        yield settings
        return
    file = settings.data_dir / "database.url"
    if not file.exists():
        raise click.ClickException(
            f"there is no {file}: run `holdfast serve` first, or name the database with"
            " --database-url or HOLDFAST_DATABASE_URL"
        )
    try:
        postgres = EmbeddedPostgres(settings.data_dir, settings.pg_bin)
        postgres.start()
    except DataDirectoryInUse:
        yield settings.at(find_addresses(settings.data_dir))
        return
    try:
        yield settings.at(postgres.addresses)
    finally:
        postgres.stop()
