"""The figures of the lab as tables: the same cells for the terminal, HTML and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.lab.claims import ClaimsResult
from service.lab.insertion import KEYS
from service.lab.result import RunResult
from service.lab.svg import format_number

WIDE = frozenset({"conflicts", "setting", "way", "crowd"})
"""Columns whose cells may wrap on a narrow screen."""


@dataclass(slots=True)
class Table:
    """A title, column names and rows. The first column is a name, the others are figures."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""
    """A conclusion from the figures."""


def of_results(title: str, results: Sequence[RunResult]) -> Table:
    """Return a table with a row for each run; retries and lock waits are per request.

    Latencies and waits are in milliseconds.
    """
    head = (
        "strategy",
        "req/s",
        "p50",
        "p99",
        "conflicts",
        "retries",
        "refused",
        "503",
        "wait",
        "verdict",
    )
    return Table(title, head, [_row(result) for result in results])


def _row(result: RunResult) -> Sequence[str]:
    return (
        result.experiment.strategy,
        format_number(result.throughput),
        format_number(result.p50_ms),
        format_number(result.p99_ms),
        _counts(result.conflicts),
        f"{result.retries_per_request:.3f}",
        str(result.refusals),
        str(result.failures),
        format_number(result.lock_waits_ms),
        "holds" if result.verdict else "BROKEN",
    )


def of_verdicts(results: Sequence[RunResult]) -> Table:
    """Return the rules, and for each run whether it kept them."""
    rules = [rule for rule, _ in results[0].verdict.parts] if results else []
    rows: list[Sequence[str]] = []
    for result in results:
        marks = ["yes" if not findings else "NO" for _, findings in result.verdict.parts]
        rows.append((f"{result.experiment.strategy}: {result.experiment.title}", *marks))
    return Table("Rules", ("run", *rules), rows)


def of_claims(claims: ClaimsResult) -> list[Table]:
    """Return a table for each claim, then the figures of all settings."""
    tables = [
        Table(
            judgement.sentence,
            ("setting", "compared", "ratio", "of the rounds", "verdict"),
            [
                (
                    each.setting,
                    f"{each.faster} : {each.slower}",
                    f"{each.ratio:.2f}",
                    f"{each.lowest:.2f} - {each.highest:.2f}",
                    each.verdict,
                )
                for each in judgement.comparisons
            ],
            f"Source: {judgement.source}. Measured: {judgement.verdict}.",
        )
        for judgement in claims.judgements
    ]
    tables.append(
        Table(
            "Select, then insert breaks under concurrency",
            ("way", "crowd", f"duplicates of {KEYS} keys", "errors", "seconds"),
            [
                (
                    each.way,
                    each.crowd,
                    str(each.duplicates),
                    str(each.errors),
                    format_number(each.seconds),
                )
                for each in claims.insertions
            ],
            f"Measured: {claims.insertion_verdict}",
        )
    )
    return tables + [of_results(setting, runs) for setting, runs in claims.medians.items()]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items()) or "none"
