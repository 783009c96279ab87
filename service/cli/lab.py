"""`holdfast lab`."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from db.vocabulary import StrategyName
from service.lab.experiment import FAULT_NAMES, PRESETS, Experiment
from service.lab.invocation import LabRequest, run_lab
from service.lab.report import (
    LabReport,
    show,
    write_html,
    write_json,
    write_markdown,
    write_plot,
)

STRATEGIES = tuple(name.value for name in StrategyName)
CHECK_SECONDS = 1.0
CLAIMS_SECONDS = 1.0
NUMBER = click.IntRange(1, 1_000_000)
SHARE = click.FloatRange(0, 1)
FILE = click.Path(path_type=Path, dir_okay=False)

_DEFAULTS = Experiment()


def _value(flag: str, kind: Any, text: str, name: str | None = None) -> Callable[[Any], Any]:
    """An option for a value of the experiment; if it is not given, the preset or default counts."""
    name = name or flag
    default = getattr(_DEFAULTS, name)
    return click.option(f"--{flag}", name, type=kind, help=f"{text} Default: {default:g}.")


@click.command()
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice([*STRATEGIES, "all"]),
    help="Strategy to run; may be repeated. Default: guard; all with `--preset claims`.",
)
@click.option(
    "--preset", type=click.Choice([*PRESETS, "claims"]), help="Named set of values (docs/lab.md)."
)
@click.option("--check", is_flag=True, help="Run the checks for CI; exit 1 if a rule was broken.")
@_value("clients", NUMBER, "Number of clients that send at the same time.")
@_value("skus", NUMBER, "Number of SKUs.")
@_value(
    "zipf",
    click.FloatRange(0, 5),
    "Zipf exponent of their popularity; with 0 all are equally popular.",
)
@_value("lines", click.IntRange(1, 100), "Number of SKUs in an order, one unit each.")
@_value("stock", click.IntRange(0, 10**12), "Units of each SKU.")
@_value("seconds", click.FloatRange(0.1, 3600), "Duration of each run.")
@click.option(
    "--merge",
    type=click.Choice(["on", "off"]),
    help="Merge waiting requests into one transaction, or run one per request. Default: on.",
)
@_value("lanes", click.IntRange(1, 64), "Concurrent transactions of a service that does not merge.")
@_value("hold", SHARE, "Share of orders that begin as holds.")
@_value("refund", SHARE, "Share of sales that are refunded.")
@_value("twins", SHARE, "Share of orders that are sent several times concurrently.")
@click.option(
    "--fault",
    type=click.Choice(FAULT_NAMES),
    help="Kill a writing session, pause the holder of a lock, or drop all connections."
    " Default: none.",
)
@_value(
    "rate", click.FloatRange(0, 1e6), "Orders per second in an open loop; 0 runs a closed loop."
)
@_value("processes", click.IntRange(1, 16), "Number of processes; a single one runs two services.")
@_value("seed", click.IntRange(0), "Seed of all random values.")
@_value("retry-share", click.FloatRange(0), "Retry budget: retries per command.", "retry_share")
@click.option(
    "--rounds", type=click.IntRange(1, 20), default=3, help="Rounds of `claims`. Default: 3."
)
@click.option(
    "--database-url",
    envvar="HOLDFAST_DATABASE_URL",
    help="PostgreSQL server on which the lab may create databases. Default: a private durable one.",
)
@click.option("--pg-bin", envvar="HOLDFAST_PG_BIN", type=click.Path(path_type=Path), hidden=True)
@click.option("--redis-url", envvar="HOLDFAST_REDIS_URL", help="Redis of the strategy redis.")
@click.option(
    "--zookeeper-hosts",
    envvar="HOLDFAST_ZOOKEEPER_HOSTS",
    help="ZooKeeper of the strategy zookeeper.",
)
@click.option("--json", "json_file", type=FILE, help="Write all figures to this file.")
@click.option("--html", "html_file", type=FILE, help="Write a report with plots to this one file.")
@click.option(
    "--markdown", "markdown_file", type=FILE, help="Write the tables as Markdown to this file."
)
@click.option(
    "--plot", "plot_file", type=FILE, help="Write a plot of the retries as SVG to this file."
)
def lab(**options: Any) -> None:
    """Run contention experiments in a temporary database.

    Several services without HTTP, each with its own connections, sell the same stock to many
    clients. After each run the lab checks the books, the accepted requests and the history of
    every SKU.
    """
    console = Console()
    request = read_request(options)
    report = run_lab(request, console)
    show(report, console)
    _write_files(report, options)
    sys.exit(_conclude(request, report))


def read_request(options: dict[str, Any]) -> LabRequest:
    """Return the request: the defaults, then the preset's values, then the given flags."""
    is_check, is_claims = options["check"], options["preset"] == "claims"
    if is_check and options["preset"]:
        raise click.UsageError("--check has its own experiments: leave out --preset")
    given = tuple(dict.fromkeys(options["strategies"]))
    strategies = STRATEGIES if "all" in given else given or (() if is_claims else ("guard",))
    return LabRequest(
        experiment=_experiment(options, is_check=is_check, is_claims=is_claims),
        strategies=strategies,
        command=shlex.join(["holdfast", *_without_secrets(sys.argv[1:])]),
        is_check=is_check,
        is_claims=is_claims,
        rounds=options["rounds"],
        database_url=options["database_url"],
        pg_bin=options["pg_bin"],
    )


def _experiment(options: dict[str, Any], *, is_check: bool, is_claims: bool) -> Experiment:
    values: dict[str, Any] = dict(PRESETS.get(options["preset"], {}))
    if is_check or is_claims:
        values["seconds"] = CHECK_SECONDS if is_check else CLAIMS_SECONDS
    names = {field.name for field in fields(Experiment)} - {"merge"}
    values |= {k: v for k, v in options.items() if k in names and v is not None}
    if options["merge"] is not None:
        values["merge"] = options["merge"] == "on"
    return Experiment(**values)


def _without_secrets(arguments: list[str]) -> list[str]:
    """Return the command line without addresses, which may contain passwords."""
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


def _write_files(report: LabReport, options: dict[str, Any]) -> None:
    for name, write in (
        ("json_file", write_json),
        ("html_file", write_html),
        ("markdown_file", write_markdown),
        ("plot_file", write_plot),
    ):
        if options[name] is not None:
            write(report, options[name])


def _conclude(request: LabRequest, report: LabReport) -> int:
    """Print each broken rule; return 1 if there is one, or if a check could not be made."""
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
