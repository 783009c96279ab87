"""`holdfast limits`: the limits of sources."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from db.queries import source_limits
from db.queries.source_limits import LIMITS, LimitsAndUse
from db.session.database import Database
from service.cli.database import DATABASE_SETTINGS, with_database
from service.cli.options import settings_options
from service.domain.errors import InvalidRequest
from service.engine.source_limits import SourceLimits
from service.input.bodies import LimitsBody
from service.input.names import name_at
from service.input.parsing import parse

F = TypeVar("F", bound=Callable[..., Any])

NONE = "none"
"""The value of an option that removes the limit."""


def _check_limit(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Check the value of an option as the service checks it in requests."""
    if value is None or value == NONE:
        return value
    if not DIGITS.fullmatch(value):
        raise click.BadParameter("must be a whole number, or none to remove the limit")
    try:
        parse(LimitsBody, f'{{"{option.name}": {int(value)}}}'.encode())
    except InvalidRequest as error:
        raise click.BadParameter(error.detail) from None
    return value


DIGITS = re.compile(r"[0-9]{1,18}")


def _limit(flag: str, meaning: str) -> Callable[[F], F]:
    return click.option(flag, metavar="N|none", callback=_check_limit, help=meaning)


@click.group()
def limits() -> None:
    """Set and show the limits of sources."""


@limits.command("set")
@settings_options(*DATABASE_SETTINGS)
@click.argument("source")
@_limit("--open-holds-max", "The most holds that may be open at once.")
@_limit("--held-units-max", "The most units that its open holds may have.")
@_limit("--hold-seconds-max", "The longest time from a hold's creation to its deadline.")
@_limit("--requests-per-second", "The most requests in a second, on average.")
def set_limits(source: str, **given: Any) -> None:
    """Change the limits of a source; those that are not named stay as they are."""
    owner = _checked(source)
    named = {name: value for name in LIMITS if (value := given.pop(name)) is not None}
    if not named:
        raise click.UsageError("name at least one limit: --open-holds-max 20, or none to remove it")
    changes = {name: None if value == NONE else int(value) for name, value in named.items()}
    show(with_database(given, lambda database: SourceLimits(database).put(owner, changes)))


@limits.command("show")
@settings_options(*DATABASE_SETTINGS)
@click.argument("source", required=False)
def show_limits(source: str | None, **given: Any) -> None:
    """Show the limits of a source, or of all sources that have any, and their use."""
    named = [] if source is None else [_checked(source)]

    async def work(database: Database) -> list[LimitsAndUse]:
        owners = named or await database.read(source_limits.list_all)
        return [await SourceLimits(database).get(owner) for owner in owners]

    for found in with_database(given, work):
        show(found)


def show(found: LimitsAndUse) -> None:
    """Print one line about a source."""
    values = {name: getattr(found, name) for name in LIMITS}
    told = "  ".join(
        f"{name} {'none' if value is None else value}" for name, value in values.items()
    )
    used = f"used {found.open_holds} open holds, {found.held_units} units"
    click.echo(f"{found.source}  {told}  {used}")


def _checked(source: str) -> str:
    try:
        return name_at("SOURCE", source)
    except InvalidRequest as error:
        raise click.UsageError(error.detail) from None
