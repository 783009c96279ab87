"""The figures of an experiment, computed from the reports of its processes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.lab.crowd import Exchange
from service.lab.experiment import Experiment
from service.lab.verdict import TOLD_TO_RETRY, Verdict
from service.lab.worker import ProcessReport

SLICE_SECONDS = 0.1
"""The width of a point in plots over time."""

SECRET = ("redis_url", "zookeeper_hosts")
"""Addresses may contain passwords, so they are left out of files."""


@dataclass(slots=True)
class RunResult:
    """The figures of one run: times in milliseconds, rates per second, the rest per request."""

    experiment: Experiment
    requests: int
    seconds: float
    throughput: float
    """Requests per second with a final answer: carried out, replayed or refused."""
    p50_ms: float
    p99_ms: float
    transactions: int
    outcomes: dict[str, int]
    conflicts: dict[str, int]
    retries: dict[str, int]
    retries_per_request: float
    refusals: int
    """Requests that were refused because units were short."""
    failures: int
    """Requests that were told to retry later (503)."""
    lock_waits_ms: float
    """Waiting time for locks per request, in PostgreSQL (sampled) and outside (measured)."""
    timeline: list[int]
    """The number of final answers in each slice of `SLICE_SECONDS`."""
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        values = asdict(self)
        for name in SECRET:
            values["experiment"].pop(name)
        values["verdict"] = {
            "holds": bool(self.verdict),
            "findings": dict(self.verdict.parts),
        }
        return values


def summarize(
    experiment: Experiment,
    reports: Sequence[ProcessReport],
    waiting_seconds: float,
    verdict: Verdict,
) -> RunResult:
    """Return the figures of a run; `waiting_seconds` were spent on locks in PostgreSQL."""
    exchanges = [exchange for report in reports for exchange in report.exchanges]
    started = min(report.started for report in reports)
    seconds = max(report.ended for report in reports) - started
    outcomes = Counter(exchange.outcome for exchange in exchanges)
    final = [each for each in exchanges if each.outcome not in TOLD_TO_RETRY]
    latencies = sorted(1000 * (each.answered - each.due) for each in final)
    retries = _sum(report.retries for report in reports)
    outside = sum(report.outside_seconds for report in reports)
    requests = max(1, len(exchanges))
    return RunResult(
        experiment=experiment,
        requests=len(exchanges),
        seconds=seconds,
        throughput=len(final) / seconds,
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        transactions=sum(report.transactions for report in reports),
        outcomes=dict(outcomes),
        conflicts=_sum(report.conflicts for report in reports),
        retries=retries,
        retries_per_request=sum(retries.values()) / requests,
        refusals=outcomes["insufficient_stock"],
        failures=len(exchanges) - len(final),
        lock_waits_ms=1000 * (waiting_seconds + outside) / requests,
        timeline=_timeline(final, started, seconds),
        verdict=verdict,
    )


def quantile(ascending: Sequence[float], share: float) -> float:
    """Return a quantile by nearest rank; 0 if there are no values."""
    if not ascending:
        return 0.0
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def _sum(parts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())


def _timeline(exchanges: Sequence[Exchange], started: float, seconds: float) -> list[int]:
    counts = [0] * (int(seconds / SLICE_SECONDS) + 1)
    for exchange in exchanges:
        counts[int((exchange.answered - started) / SLICE_SECONDS)] += 1
    return counts[:-1] or counts
