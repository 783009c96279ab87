"""The command line: serve, keys, audit, migrations, imports, the replay of real orders."""

import asyncio
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from db.embedded.server import EmbeddedError
from db.session.database import Database, DatabaseError
from service.lab.command import lab
from service.ops.metrics_directory import metrics_directory
from service.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DATABASE = ("database_url", "data_dir")


def main() -> None:
    """Run the command line; a failure that is foreseen is one sentence on stderr and exit 1."""
    _leave_closed_home()
    try:
        cli(prog_name="holdfast")
    except (DatabaseError, EmbeddedError, OSError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        click.echo(f"holdfast: {str(error) or type(error).__name__}{cause}", err=True)
        sys.exit(1)


def _leave_closed_home() -> None:
    """Name a home that does not exist where ours can't be entered.

    The driver looks there for certificates, and fails if it may not look.
    """
    with suppress(RuntimeError):  # a user without a name has none, which the driver knows
        if not os.access(Path.home(), os.X_OK):
            os.environ["HOME"] = "/nonexistent"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="holdfast")
def cli() -> None:
    """Holdfast reserves inventory over HTTP: exactly once, never below zero."""


cli.add_command(lab)


def settings_options(*names: str) -> Callable[[F], F]:
    """Give a command a flag for each of these settings; without names, for all."""

    def decorate(command: F) -> F:
        fields = Settings.model_fields
        for name in reversed(names or tuple(fields)):
            command = _option(name, fields[name])(command)
        return command

    return decorate


def _option(name: str, field: "FieldInfo") -> Callable[[F], F]:
    default = "" if field.default in (None, PydanticUndefined) else f" Default: {field.default}."
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        metavar=name.rsplit("_", maxsplit=1)[-1].upper(),
        help=f"{field.description}{default} [HOLDFAST_{name.upper()}]",
    )


def read_settings(given: dict[str, Any]) -> Settings:
    """Return the settings: flags that were given, then the environment, then the defaults."""
    _ignore_foreign_port()
    try:
        return Settings(**{name: value for name, value in given.items() if value})
    except ValidationError as error:
        raise click.UsageError("; ".join(map(_complaint, error.errors()))) from None


def _complaint(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    name = str(error["loc"][0]).lower()
    return f"{name.replace('_', '-')} (HOLDFAST_{name.upper()}): {message}"


def _ignore_foreign_port() -> None:
    """Drop the HOLDFAST_PORT that Kubernetes sets for a service called holdfast."""
    port = os.environ.get("HOLDFAST_PORT", "")
    if "://" in port:
        del os.environ["HOLDFAST_PORT"]
        click.echo(
            f"holdfast: HOLDFAST_PORT={port} is ignored: it is the address that Kubernetes gives to"
            " a service of this name; set HOLDFAST_PORT to a number, or use --port",
            err=True,
        )


@cli.command()
@settings_options()
@click.option("--demo", is_flag=True, help="Load a small catalogue into an empty private database.")
def serve(demo: bool, **given: Any) -> None:
    """Bring everything up and serve until SIGTERM or Ctrl-C.

    Everything can be set by flag or by environment; the flag wins.
    """
    settings = read_settings(given)
    with metrics_directory():
        from service.ops.server import serve  # noqa: PLC0415 - it asks where the metrics are

        code = serve(settings, demo=demo)
    sys.exit(code)


@cli.group()
def key() -> None:
    """Create, list and revoke the keys that callers send."""


@key.command("create")
@settings_options(*DATABASE)
@click.option("--source", help="The calling system; what it creates is its own.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["reserve", "stock", "read", "admin"]),
    help="What the key may do; may be repeated. Only admin implies the others.",
)
def create_key(source: str | None, scopes: tuple[str, ...], **given: Any) -> None:
    """Print a new key, once: only its digest is stored."""
    from service.http.authentication import new_key, store_key  # noqa: PLC0415 - keeps `serve` quick to start

    if source is None and "admin" not in scopes:
        raise click.UsageError("--source is needed unless the scope is admin")
    owner, value = _source("admin" if source is None else source), new_key()

    async def work(database: Database) -> None:
        id_ = await store_key(database, value, owner, sorted(set(scopes)))
        click.echo(f"key {id_} of {owner}: {', '.join(sorted(set(scopes)))}", err=True)

    _with_database(given, work)
    click.echo(value)


@key.command("list")
@settings_options(*DATABASE)
def list_keys(**given: Any) -> None:
    """List all keys, revoked ones too; the keys themselves are not known."""
    from db.queries import credentials as keys  # noqa: PLC0415 - keeps `serve` quick to start

    for row in _with_database(given, lambda database: database.read(keys.every)):
        state = "revoked" if row.revoked_at else "valid"
        created = row.created_at.isoformat(timespec="seconds")
        click.echo(f"{row.id}  {row.source}  {','.join(row.scopes)}  {created}  {state}")


@key.command("revoke")
@settings_options(*DATABASE)
@click.argument("key_id", type=click.UUID)
def revoke_key(key_id: Any, **given: Any) -> None:
    """Revoke a key by its id; it stops working within a second."""
    from db.queries import credentials as keys  # noqa: PLC0415 - keeps `serve` quick to start

    async def work(database: Database) -> bool:
        return await database.transact(
            lambda transaction: keys.revoke(transaction.connection, key_id)
        )

    if not _with_database(given, work):
        raise click.ClickException(f"there is no key {key_id}; see `holdfast key list`")
    click.echo(f"revoked {key_id}")


@cli.command()
@settings_options(*DATABASE)
@click.option("--seconds", default=3600, show_default=True, help="How long it may take.")
def audit(seconds: int, **given: Any) -> None:
    """Check that rows, ledger and reservations tell the same story; exit 1 on drift."""
    from db.queries.audit import audit  # noqa: PLC0415 - keeps `serve` quick to start

    found = _with_database(given, lambda database: audit(database, seconds_max=seconds))
    for drift in found.drift:
        click.echo("  ".join(f"{name}={value}" for name, value in drift.items()))
    verdict = f"DRIFT in {len(found.drift)} places" if found.drift else "balanced"
    click.echo(f"{verdict}: {found.stock} stock rows, {found.reservations} reservations checked")
    sys.exit(1 if found.drift else 0)


def service_options(command: F) -> F:
    """Give a command the address of a running service and a key for it."""
    command = click.option(
        "--key",
        "api_key",
        envvar="HOLDFAST_KEY",
        required=True,
        show_envvar=True,
        help="The key to send, with the scopes read, reserve and stock, or admin.",
    )(command)
    return click.option(
        "--url",
        default="http://127.0.0.1:8000",
        show_default=True,
        help="Where the service listens.",
    )(command)


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--job", help="The import's name, done once. Default: the file's name.")
@service_options
def import_stock(file: Path, job: str | None, url: str, api_key: str) -> None:
    """Create the stock rows of FILE (sku,location,available[,name]) that are missing."""
    from service.replay.client import ClientError, connected  # noqa: PLC0415 - see above

    content = file.read_bytes()

    async def work() -> str:
        async with connected(url, api_key) as client:
            answer = await client.import_stock(job or file.name, content, file.name)
        before = " (this job was done before; nothing changed now)" if answer.replayed else ""
        return f"{answer.body['created']} created, {answer.body['skipped']} skipped{before}"

    try:
        click.echo(asyncio.run(work()))
    except ClientError as error:
        raise click.ClickException(str(error)) from None


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@service_options
@click.option(
    "--concurrency",
    default=16,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Orders under way at once.",
)
@click.option(
    "--prefix",
    default="replay",
    show_default=True,
    callback=lambda _context, _option, value: _prefix(value),
    help="Begins every seq and names the location and the import job: a new one is a fresh run.",
)
@click.option(
    "--stock-share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the units bought that is put in stock; below 1, orders are refused.",
)
@click.option(
    "--matches",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of cancellations and their purchases that ours must agree with.",
)
def replay(file: Path, url: str, api_key: str, **options: Any) -> None:
    """Send the real orders in FILE to a running service, twice, and check that all of it held.

    Purchases become reservations, cancellations refunds, the rest stock adjustments. The second
    time every answer must be a replay and no stock may move. Exit 1 if anything did not hold.
    """
    from service.replay.client import ClientError  # noqa: PLC0415 - keeps `serve` quick to start
    from service.replay.orders_file import OrdersError  # noqa: PLC0415 - see above
    from service.replay.report import run_replay  # noqa: PLC0415 - see above

    try:
        failures = asyncio.run(run_replay(file, url, api_key, **options))
    except (ClientError, OrdersError) as error:
        raise click.ClickException(str(error)) from None
    for failure in failures:
        click.echo(f"DID NOT HOLD: {failure}", err=True)
    sys.exit(1 if failures else 0)


def _prefix(value: str) -> str:
    """Check that a prefix may be a location and leaves room in a seq."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise click.BadParameter(
            "must be 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    return value


@cli.group()
def db() -> None:
    """Look after the database."""


@db.command("upgrade")
@settings_options("database_url", "migrate_database_url", "data_dir")
def upgrade_database(**given: Any) -> None:
    """Bring the schema up to date; safe to run many times, at once too."""
    from db.migrate import upgrade  # noqa: PLC0415 - keeps `serve` quick to start

    def work(database: Database, settings: Settings) -> Coroutine[Any, Any, None]:
        return upgrade(database, settings.migrate_database_url)

    _with_settings(given, work)
    click.echo("the schema is up to date")


def _source(value: str) -> str:
    """Check a source as requests do."""
    from service.domain.errors import InvalidRequest  # noqa: PLC0415 - keeps `serve` quick to start
    from service.input.names import name_at  # noqa: PLC0415 - see above

    try:
        return name_at("--source", value)
    except InvalidRequest as error:
        raise click.UsageError(error.detail) from None


def _with_database(given: dict[str, Any], work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run `work` as the role that serves the database of these settings."""
    return _with_settings(given, lambda database, _settings: work(database))


def _with_settings(
    given: dict[str, Any], work: Callable[[Database, Settings], Coroutine[Any, Any, T]]
) -> T:
    """Run `work` with the roles' addresses too: named ones, or those of a private PostgreSQL."""
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
    """Say where the database is; the private PostgreSQL is started if it does not run."""
    from db.embedded.server import (  # noqa: PLC0415 - see above
        DataDirectoryInUse,
        EmbeddedPostgres,
        find_addresses,
    )

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
