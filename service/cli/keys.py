"""`holdfast key`: the keys that callers send."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from pydantic import TypeAdapter, ValidationError

from db.queries import credentials
from db.session.database import AsyncConnection, Database
from db.vocabulary import Scope
from service.cli.database import DATABASE_SETTINGS, with_database
from service.cli.durations import Duration
from service.cli.options import settings_options
from service.domain.commands import Outcome
from service.domain.errors import InvalidRequest, NotFound, ServiceError
from service.http.access import issuance
from service.http.access.issuance import IssuedKey, WantedKey, state_of
from service.input.bodies import CONTROL, GRACE_SECONDS_MAX, INVISIBLE, Label
from service.input.messages import message_of
from service.input.names import name_at

PAGE = 500  # keys that are read at once
COLUMNS = (
    "id", "prefix", "source", "scopes", "label", "created", "expires", "last used", "state"
)  # fmt: skip


@click.group()
def key() -> None:
    """Create, list, rotate and revoke the keys that callers send."""


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
@click.option(
    "--expires", type=Duration(), help="The time after which it is refused, as 90d. Default: never."
)
@click.option("--label", help="A text by which people recognise the key.")
def create_key(
    source: str | None,
    scopes: tuple[str, ...],
    expires: timedelta | None,
    label: str | None,
    **given: Any,
) -> None:
    """Create a key and print it once: the database stores only its digest."""
    if source is None and Scope.ADMIN not in scopes:
        raise click.UsageError("--source is needed unless the scope is admin")
    if expires is not None and not expires:
        raise click.UsageError("--expires must be longer than 0")
    owner = _checked_source("admin" if source is None else source)
    name, sorted_scopes = _checked_label(label), tuple(sorted(set(scopes)))

    async def work(database: Database) -> Outcome[Any]:
        end = None if expires is None else expires + await database.read(credentials.read_clock)
        return await issuance.create_key(database, WantedKey(owner, sorted_scopes, name, end))

    _print_new_key(with_database(given, work))


@key.command("list")
@settings_options(*DATABASE_SETTINGS)
def list_keys(**given: Any) -> None:
    """List all keys, also those that are revoked or expired. The keys themselves are not stored."""

    async def work(connection: AsyncConnection) -> list[Sequence[str]]:
        now, lines, after = await credentials.read_clock(connection), [], None
        while page := await credentials.list_page(connection, limit=PAGE, after=after):
            lines += [_line(row, now) for row in page]
            after = (page[-1].created_at, page[-1].id)
        return lines

    lines = with_database(given, lambda database: database.read(work))
    widths = [max(map(len, column)) for column in zip(COLUMNS, *lines, strict=True)]
    for line in (COLUMNS, *lines):
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


@key.command("rotate")
@settings_options(*DATABASE_SETTINGS)
@click.argument("key_id", type=click.UUID)
@click.option(
    "--grace",
    type=Duration(timedelta(seconds=GRACE_SECONDS_MAX)),
    default="24h",
    show_default=True,
    help="The time for which the old key still works, as 24h.",
)
def rotate_key(key_id: UUID, grace: timedelta, **given: Any) -> None:
    """Make a key like an existing one, print it once, and end the old one after the grace."""
    _print_new_key(
        with_database(given, lambda database: issuance.rotate_key(database, key_id, grace)), key_id
    )


@key.command("revoke")
@settings_options(*DATABASE_SETTINGS)
@click.argument("key_id", type=click.UUID)
def revoke_key(key_id: UUID, **given: Any) -> None:
    """Revoke a key by its id; it stops working within a second."""
    outcome = with_database(given, lambda database: issuance.revoke_key(database, key_id))
    if isinstance(outcome, ServiceError):
        raise _failure(outcome, key_id)
    click.echo(f"revoked {key_id}")


def _print_new_key(outcome: Outcome[Any], key_id: UUID | None = None) -> None:
    """Print a new key as the last word on stdout, and the facts about it on stderr."""
    if isinstance(outcome, ServiceError):
        raise _failure(outcome, key_id)
    issued: IssuedKey = outcome.value
    row = issued.row
    end = "" if row.expires_at is None else f", expires at {_written(row.expires_at, 'seconds')}"
    click.echo(f"key {row.id} of {row.source}: {', '.join(row.scopes)}{end}", err=True)
    click.echo(issued.key)


def _failure(error: ServiceError, key_id: UUID | None) -> click.ClickException:
    if isinstance(error, NotFound):
        return click.ClickException(f"there is no key {key_id}; see `holdfast key list`")
    return click.ClickException(error.detail)


def _line(row: Any, now: datetime) -> Sequence[str]:
    """Return the columns of a key."""
    return (
        str(row.id),
        row.prefix or "-",
        _printable(row.source),
        ",".join(row.scopes),
        _printable(row.label or "-"),
        _written(row.created_at, "seconds"),
        "never" if row.expires_at is None else _written(row.expires_at, "seconds"),
        "never" if row.last_used_at is None else _written(row.last_used_at, "minutes"),
        state_of(row, now),
    )


def _written(moment: datetime, unit: str) -> str:
    return moment.astimezone(UTC).isoformat(timespec=unit).replace("+00:00", "Z")


def _printable(text: str) -> str:
    """Return a text in which no character can move the cursor or hide others."""
    return re.sub(
        f"[{CONTROL}{INVISIBLE}]", lambda found: found[0].encode("unicode_escape").decode(), text
    )


def _checked_source(value: str) -> str:
    """Check a source as the service checks it in requests."""
    try:
        return name_at("--source", value)
    except InvalidRequest as error:
        raise click.UsageError(error.detail) from None


def _checked_label(value: str | None) -> str | None:
    """Check a label as the service checks it in requests."""
    try:
        return None if value is None else TypeAdapter(Label).validate_python(value)
    except ValidationError as error:
        raise click.UsageError(f"--label {message_of(error)}.") from None
