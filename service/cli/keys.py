"""`holdfast key`: the keys that callers send."""

from typing import Any
from uuid import UUID

import click

from db.queries import credentials
from db.session.database import Database
from db.vocabulary import Scope
from service.cli.database import DATABASE_SETTINGS, with_database
from service.cli.options import settings_options
from service.domain.errors import InvalidRequest
from service.http.access.keys import new_key, store_key
from service.input.names import name_at


@click.group()
def key() -> None:
    """Create, list and revoke the keys that callers send."""


@key.command("create")
@settings_options(*DATABASE_SETTINGS)
@click.option("--source", help="The calling system. It owns all that it creates.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="A permission of the key; may be repeated. Only admin includes the others.",
)
def create_key(source: str | None, scopes: tuple[str, ...], **given: Any) -> None:
    """Create a key and print it once: the database stores only its digest."""
    if source is None and Scope.ADMIN not in scopes:
        raise click.UsageError("--source is needed unless the scope is admin")
    owner, value = _checked_source("admin" if source is None else source), new_key()

    async def work(database: Database) -> None:
        id_ = await store_key(database, value, owner, sorted(set(scopes)))
        click.echo(f"key {id_} of {owner}: {', '.join(sorted(set(scopes)))}", err=True)

    with_database(given, work)
    click.echo(value)


@key.command("list")
@settings_options(*DATABASE_SETTINGS)
def list_keys(**given: Any) -> None:
    """List the ids of all keys, revoked ones too. The keys themselves are not stored."""
    for row in with_database(given, lambda database: database.read(credentials.list_all)):
        state = "revoked" if row.revoked_at else "valid"
        created = row.created_at.isoformat(timespec="seconds")
        click.echo(f"{row.id}  {row.source}  {','.join(row.scopes)}  {created}  {state}")


@key.command("revoke")
@settings_options(*DATABASE_SETTINGS)
@click.argument("key_id", type=click.UUID)
def revoke_key(key_id: UUID, **given: Any) -> None:
    """Revoke a key by its id; it stops working within a second."""

    async def work(database: Database) -> bool:
        return await database.transact(
            lambda transaction: credentials.revoke(transaction.connection, key_id)
        )

    if not with_database(given, work):
        raise click.ClickException(f"there is no key {key_id}; see `holdfast key list`")
    click.echo(f"revoked {key_id}")


def _checked_source(value: str) -> str:
    """Check a source as the service checks it in requests."""
    try:
        return name_at("--source", value)
    except InvalidRequest as error:
        raise click.UsageError(error.detail) from None
