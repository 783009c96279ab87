"""The command `holdfast lab`: its options, and what it makes of them."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from db.vocabulary import StrategyName
from service.lab.experiment import FAULTS, PRESETS, Experiment

if TYPE_CHECKING:
    from service.lab.report import LabReport
    from service.lab.session import Request

STRATEGIES = tuple(name.value for name in StrategyName)
CHECK_SECONDS = 1.0
CLAIMS_SECONDS = 1.0
NUMBER = click.IntRange(1, 1_000_000)
SHARE = click.FloatRange(0, 1)
FILE = click.Path(path_type=Path, dir_okay=False)

_DEFAULTS = Experiment()


def _value(flag: str, kind: Any, text: str, name: str | None = None) -> Callable[[Any], Any]:
    """An option for a value of the experiment; a preset's or the default unless it is given."""
    name = name or flag
    default = getattr(_DEFAULTS, name)
    return click.option(f"--{flag}", name, type=kind, help=f"{text} Default: {default:g}.")


@click.command()
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice([*STRATEGIES, "all"]),
    help="What to run; may be repeated. Default: guard, with `claims` all it compares.",
)
@click.option(
    "--preset", type=click.Choice([*PRESETS, "claims"]), help="Values to begin with, see the docs."
)
@click.option(
    "--check", is_flag=True, help="Pass or fail, for CI: exit 1 if anything did not hold."
)
@_value("clients", NUMBER, "How many send at once.")
@_value("skus", NUMBER, "How many SKUs there are.")
@_value("zipf", click.FloatRange(0, 5), "Exponent of their popularity; 0 draws all alike.")
@_value("lines", click.IntRange(1, 100), "SKUs in an order, one unit each.")
@_value("stock", click.IntRange(0, 10**12), "Units of each SKU.")
@_value("seconds", click.FloatRange(0.1, 3600), "How long each run takes.")
@click.option(
    "--merge",
    type=click.Choice(["on", "off"]),
    help="Merge what waits into one transaction, or one transaction per request. Default: on.",
)
@_value("lanes", click.IntRange(1, 64), "Transactions at once in a service that does not merge.")
@_value("hold", SHARE, "Share of orders that are holds first.")
@_value("refund", SHARE, "Share of sales that are given back.")
@_value("twins", SHARE, "Share of orders that are sent several times at once.")
@click.option(
    "--fault",
    type=click.Choice(FAULTS),
    help="Kill a writing session, freeze a lock's holder, or drop all connections. Default: none.",
)
@_value("rate", click.FloatRange(0, 1e6), "Orders arriving a second (open loop); 0: closed loop.")
@_value("processes", click.IntRange(1, 16), "Processes; one alone runs two services.")
@_value("seed", click.IntRange(0), "Of everything that is drawn.")
@_value("retry-share", click.FloatRange(0), "Budget for retries.", "retry_share")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, help="Of `claims`. Default: 3.")
@click.option(
    "--database-url",
    envvar="HOLDFAST_DATABASE_URL",
    help="A server on which the lab may create databases. Default: a private one, durable.",
)
@click.option("--pg-bin", envvar="HOLDFAST_PG_BIN", type=click.Path(path_type=Path), hidden=True)
@click.option("--redis-url", envvar="HOLDFAST_REDIS_URL", help="For the strategy redis.")
@click.option("--zookeeper-hosts", envvar="HOLDFAST_ZOOKEEPER_HOSTS", help="For zookeeper.")
@click.option("--json", "json_file", type=FILE, help="Write every figure to this file.")
@click.option("--html", "html_file", type=FILE, help="Write a report with plots, one file.")
@click.option("--markdown", "markdown_file", type=FILE, help="Write the tables as Markdown.")
@click.option("--plot", "plot_file", type=FILE, help="Write a plot of the retries, as SVG.")
def lab(**options: Any) -> None:
    """Run contention experiments in a database of their own, which is dropped afterwards.

    Services without HTTP, each with its own connections, sell the same stock to a crowd of clients;
    after each run the books, the winners and every SKU's history are checked.
    """
    from rich.console import Console  # noqa: PLC0415 - keeps `serve` quick to start

    from service.lab.report import show  # noqa: PLC0415 - see above
    from service.lab.session import run_lab  # noqa: PLC0415 - see above

    console = Console()
    request = read_request(options)
    report = run_lab(request, console)
    show(report, console)
    _write(report, options)
    sys.exit(_conclude(request, report))


def read_request(options: dict[str, Any]) -> "Request":
    """Return what was asked for: defaults, then the preset's values, then the flags given."""
    from service.lab.session import Request  # noqa: PLC0415 - see above

    is_check, is_claims = options["check"], options["preset"] == "claims"
    if is_check and options["preset"]:
        raise click.UsageError("--check brings its own experiments: leave out --preset")
    values: dict[str, Any] = dict(PRESETS.get(options["preset"], {}))
    if is_check or is_claims:
        values["seconds"] = CHECK_SECONDS if is_check else CLAIMS_SECONDS
    names = {field.name for field in fields(Experiment)}
    values |= {k: v for k, v in options.items() if k in names and v is not None and k != "merge"}
    if options["merge"] is not None:
        values["merge"] = options["merge"] == "on"
    given = tuple(dict.fromkeys(options["strategies"]))
    strategies = STRATEGIES if "all" in given else given or (() if is_claims else ("guard",))
    return Request(
        experiment=Experiment(**values),
        strategies=strategies,
        command=shlex.join(["holdfast", *_without_secrets(sys.argv[1:])]),
        is_check=is_check,
        is_claims=is_claims,
        rounds=options["rounds"],
        database_url=options["database_url"],
        pg_bin=options["pg_bin"],
    )


def _without_secrets(arguments: list[str]) -> list[str]:
    """The command line as a report may show it: addresses can hold passwords."""
    shown: list[str] = []
    for argument in arguments:
        flag = argument.split("=")[0]
        if shown and shown[-1] in ("--database-url", "--redis-url"):
            shown.append("…")
        elif flag in ("--database-url", "--redis-url") and "=" in argument:
            shown.append(f"{flag}=…")
        else:
            shown.append(argument)
    return shown


def _write(report: "LabReport", options: dict[str, Any]) -> None:
    from service.lab import report as writing  # noqa: PLC0415 - see above

    for name, write in (
        ("json_file", writing.write_json),
        ("html_file", writing.write_html),
        ("markdown_file", writing.write_markdown),
        ("plot_file", writing.write_plot),
    ):
        if options[name] is not None:
            write(report, options[name])


def _conclude(request: "Request", report: "LabReport") -> int:
    """Say what did not hold; return 1 if something did not, or if a check could not be made."""
    failures = [f"DID NOT HOLD: {finding}" for finding in report.findings()]
    if request.is_check and set(request.strategies) != set(STRATEGIES):
        failures += [f"NOT CHECKED: {name}, {why}" for name, why in report.skipped.items()]
    if not report.runs:
        failures.append("NOTHING WAS RUN")
    for failure in failures:
        click.echo(failure, err=True)
    if request.is_check:
        click.echo("FAIL" if failures else f"PASS: everything held in {len(report.runs)} runs")
    return 1 if failures else 0
