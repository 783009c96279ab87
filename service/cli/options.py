"""The options that several commands share: settings as flags, and the address of a service."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from service.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

F = TypeVar("F", bound=Callable[..., Any])


def settings_options(*names: str) -> Callable[[F], F]:
    """Add a flag for each named setting to a command; without names, for all settings."""

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
    """Return the settings: flags first, then the environment, then the defaults."""
    _ignore_kubernetes_port()
    try:
        return Settings(**{name: value for name, value in given.items() if value})
    except ValidationError as error:
        raise click.UsageError("; ".join(map(_explain, error.errors()))) from None


def _explain(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    name = str(error["loc"][0]).lower()
    return f"{name.replace('_', '-')} (HOLDFAST_{name.upper()}): {message}"


def _ignore_kubernetes_port() -> None:
    """Remove the HOLDFAST_PORT that Kubernetes sets for a service called holdfast."""
    port = os.environ.get("HOLDFAST_PORT", "")
    if "://" in port:
        del os.environ["HOLDFAST_PORT"]
        click.echo(
            f"holdfast: HOLDFAST_PORT={port} is ignored, because Kubernetes sets it to the address"
            " of a service called holdfast. Set HOLDFAST_PORT to a number, or use --port",
            err=True,
        )


def service_options(command: F) -> F:
    """Add the address of a running service and a key for it to a command."""
    command = click.option(
        "--key",
        "api_key",
        envvar="HOLDFAST_KEY",
        required=True,
        show_envvar=True,
        help="The key to send. It needs the scopes read, reserve and stock, or admin.",
    )(command)
    return click.option(
        "--url",
        default="http://127.0.0.1:8000",
        show_default=True,
        help="The address of the service.",
    )(command)
