"""`holdfast serve`."""

import sys
from typing import Any

import click

from service.cli.options import read_settings, settings_options
from service.input.issuer import Issuer
from service.ops.metrics_directory import metrics_directory


@click.command()
@settings_options()
@click.option("--demo", is_flag=True, help="Load a small catalogue into an empty private database.")
def serve(demo: bool, **given: Any) -> None:
    """Start the service and all that it needs.

    It serves until SIGTERM or Ctrl-C. Every setting is a flag and an environment variable; the
    flag wins.
    """
    settings = read_settings(given)
    issuer = settings.issuer()
    if issuer is not None:
        _check_keys_of(issuer)
    with metrics_directory():
        # prometheus_client reads the name of the metrics' directory when it is imported.
        from service.ops import server  # noqa: PLC0415

        code = server.serve(settings, demo=demo)
    sys.exit(code)


def _check_keys_of(issuer: Issuer) -> None:
    from service.http.access.issuer_keys import check_key_file  # noqa: PLC0415 - needs an extra

    try:
        check_key_file(issuer)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
