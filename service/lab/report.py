"""The report of the lab: on the screen, as JSON, as Markdown and as one HTML file."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from service.lab import svg, tables
from service.lab.claims import ClaimsResult
from service.lab.result import SLICE_SECONDS, RunResult
from service.lab.tables import Table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 2rem } svg { max-width: 100%; height: auto }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { background: #f4f4f4; padding: .7rem; white-space: pre-wrap }
"""


@dataclass(slots=True)
class LabReport:
    """The results of one invocation of the lab."""

    command: str
    results: list[RunResult] = field(default_factory=list)
    claims: ClaimsResult | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """The strategies that could not be run, with the reasons."""
    database: str = ""
    """The version that the database reports."""
    made_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))
    machine: str = field(
        default_factory=lambda: (
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()},"
            f" load average {os.getloadavg()[0]:.1f} before"
        )
    )

    @property
    def runs(self) -> list[RunResult]:
        """Return every run, including those of the claims."""
        return self.results + (self.claims.results if self.claims else [])

    @property
    def title(self) -> str:
        """Return the title of the report."""
        if self.claims is not None:
            return "Claims of the literature, measured"
        titles = list(self._groups)
        return titles[0] if len(titles) == 1 else f"{len(self.results)} runs"

    @property
    def tables(self) -> list[Table]:
        """Return the tables with all figures."""
        if self.claims is not None:
            return tables.of_claims(self.claims)
        return [tables.of_results(title, results) for title, results in self._groups.items()]

    @property
    def plots(self) -> list[str]:
        """Return all plots as SVG."""
        if self.claims is not None:
            return [
                plot
                for setting, runs in self.claims.medians.items()
                for plot in _bars(runs, setting)
            ]
        return [
            plot
            for title, results in self._groups.items()
            for plot in (*_bars(results, title), *_more(results))
        ]

    @property
    def _groups(self) -> dict[str, list[RunResult]]:
        """The runs by their common title; the runs of a group differ only in their strategy."""
        groups: dict[str, list[RunResult]] = {}
        for result in self.results:
            groups.setdefault(result.experiment.title, []).append(result)
        return groups

    def findings(self) -> list[str]:
        """Return a sentence for each broken rule."""
        return [
            f"{result.experiment.strategy} ({result.experiment.title}): {rule}: {finding}"
            for result in self.runs
            for rule, findings in result.verdict.parts
            for finding in findings
        ]


def show(report: LabReport, console: Console) -> None:
    """Print the tables and the strategies that were not run."""
    for table in report.tables:
        shown = RichTable(
            title=table.title,
            title_justify="left",
            box=SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        for column, name in enumerate(table.head):
            is_wide = name in tables.WIDE
            shown.add_column(
                name,
                justify="right" if column else "left",
                no_wrap=not is_wide,
                min_width=8 if is_wide else None,
            )
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        if table.note:
            console.print(f"{table.note}\n")
    for strategy, reason in report.skipped.items():
        console.print(f"not run: {strategy}, {reason}")


def write_json(report: LabReport, file: Path) -> None:
    """Write all figures."""
    values: dict[str, Any] = {
        "command": report.command,
        "made_at": report.made_at,
        "machine": report.machine,
        "database": report.database,
        "holds": not report.findings(),
        "skipped": report.skipped,
        "runs": [result.to_json() for result in report.runs],
    }
    if report.claims is not None:
        values["claims"] = [
            asdict(judgement)
            | {"comparisons": [asdict(c) | {"verdict": c.verdict} for c in judgement.comparisons]}
            for judgement in report.claims.judgements
        ]
        values["insertions"] = [asdict(each) for each in report.claims.insertions]
    file.write_text(json.dumps(values, indent=1) + "\n")


def write_html(report: LabReport, file: Path) -> None:
    """Write one file that needs no other file."""
    sections = [_html(table) for table in [*report.tables, tables.of_verdicts(report.runs)]]
    sections += report.plots
    body = "\n".join([_preface(report), *sections])
    file.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(report.title)}</h1>\n{body}\n</body></html>\n"
    )


def write_markdown(report: LabReport, file: Path) -> None:
    """Write the tables as a page of documentation."""
    lines = [f"# {report.title}", "", "```console", f"$ {report.command}", "```", ""]
    lines += [f"{sentence}\n" for sentence in _circumstances(report)]
    for table in report.tables:
        lines += [f"## {table.title}", ""]
        lines += [table.note, ""] if table.note else []
        lines += [_cells(table.head), _cells(["---", *["---:"] * (len(table.head) - 1)])]
        lines += [*map(_cells, table.rows), ""]
    file.write_text("\n".join(lines))


def write_plot(report: LabReport, file: Path) -> None:
    """Write one plot: the retries per request of every run."""
    file.write_text(retries_plot(report.results) + "\n")


def retries_plot(results: Sequence[RunResult]) -> str:
    """Return conflicts and retries per thousand requests, as bars."""
    per_thousand = [1000 / max(1, result.requests) for result in results]
    return svg.bars(
        "Per 1,000 requests",
        [result.experiment.strategy for result in results],
        {
            "lost races": [
                sum(result.conflicts.values()) * factor
                for result, factor in zip(results, per_thousand, strict=True)
            ],
            "retries": [result.retries_per_request * 1000 for result in results],
            "answered 503": [
                result.failures * factor
                for result, factor in zip(results, per_thousand, strict=True)
            ],
        },
    )


def _bars(results: Sequence[RunResult], where: str) -> list[str]:
    labels = [result.experiment.strategy for result in results]
    return [
        svg.bars(f"Requests per second — {where}", labels, {"": [r.throughput for r in results]}),
        svg.bars(
            f"Latency, ms — {where}",
            labels,
            {"p50": [r.p50_ms for r in results], "p99": [r.p99_ms for r in results]},
        ),
    ]


def _more(results: Sequence[RunResult]) -> list[str]:
    labels = [result.experiment.strategy for result in results]
    waits = {"": [result.lock_waits_ms for result in results]}
    rates = {
        result.experiment.strategy: [count / SLICE_SECONDS for count in result.timeline]
        for result in results
    }
    return [
        retries_plot(results),
        svg.bars("Waiting for locks, ms per request", labels, waits),
        svg.lines("Answers per second, over time", SLICE_SECONDS, rates),
    ]


def _preface(report: LabReport) -> str:
    sentences = "".join(f"<p>{escape(each)}</p>" for each in _circumstances(report))
    return f"<pre>$ {escape(report.command)}</pre>{sentences}"


def _circumstances(report: LabReport) -> list[str]:
    sentences = [f"Made {report.made_at} on {report.database}; {report.machine}."]
    if report.claims is not None:
        experiment = report.claims.results[0].experiment
        sentences.append(
            f"Medians of {report.claims.rounds} rounds of {experiment.seconds:g} s, interleaved;"
            f" {experiment.clients} clients in {experiment.processes} processes with one service"
            f" each; a service that does not merge runs {experiment.lanes} transactions at once."
            " Clients, services and PostgreSQL share the machine, so only ratios are meaningful."
            " A difference counts when it exceeds 10 % and every round agrees."
        )
    sentences += [f"Not run: {name}, {reason}." for name, reason in report.skipped.items()]
    findings = report.findings()
    checked = "the books balanced, every unit had one winner, equal requests had one effect, and"
    sentences.append(
        f"{len(findings)} findings: " + "; ".join(findings[:5])
        if findings
        else f"After each of {len(report.runs)} runs {checked} every history was linearizable."
    )
    return sentences


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    note = f"<p>{escape(table.note)}</p>\n" if table.note else ""
    return f"<h2>{escape(table.title)}</h2>\n{note}<table><tr>{head}</tr>\n{rows}</table>"


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
