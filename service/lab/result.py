"""An experiment's figures, made from what its processes saw."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.lab.experiment import Experiment
from service.lab.load import Answer
from service.lab.verdict import TOLD_TO_RETRY, Verdict
from service.lab.worker import Report

SLICE_SECONDS = 0.1
"""The width of a point in plots over time."""

SECRET = ("redis_url", "zookeeper_hosts")
"""Addresses, which may hold passwords, stay out of files that are passed on."""


@dataclass(slots=True)
class Result:
    """One run's figures: times in milliseconds, rates per second, the rest per request."""

    experiment: Experiment
    requests: int
    seconds: float
    throughput: float
    """Requests a second that got an answer which stands: carried out, replayed or refused."""
    p50_ms: float
    p99_ms: float
    transactions: int
    outcomes: dict[str, int]
    conflicts: dict[str, int]
    retries: dict[str, int]
    retries_per_request: float
    refusals: int
    """Told that there is not enough."""
    failures: int
    """Told to try again later (503)."""
    lock_waits_ms: float
    """Waited for locks, in PostgreSQL (sampled) and outside of it (measured), per request."""
    timeline: list[int]
    """Answers that stand, in slices of `SLICE_SECONDS`."""
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        values = asdict(self)
        for name in SECRET:
            values["experiment"].pop(name)
        values["verdict"] = {
            "holds": bool(self.verdict),
            "findings": dict(self.verdict.parts),
        }
        return values


def summarize(
    experiment: Experiment, reports: Sequence[Report], waiting_seconds: float, verdict: Verdict
) -> Result:
    """Return the figures of a run; `waiting_seconds` were spent on locks in PostgreSQL."""
    answers = [answer for report in reports for answer in report.answers]
    started = min(report.started for report in reports)
    seconds = max(report.ended for report in reports) - started
    outcomes = Counter(answer.outcome for answer in answers)
    standing = [answer for answer in answers if answer.outcome not in TOLD_TO_RETRY]
    waits = sorted(1000 * (answer.answered - answer.due) for answer in standing)
    retries = _sum(report.retries for report in reports)
    outside = sum(report.outside_seconds for report in reports)
    requests = max(1, len(answers))
    return Result(
        experiment=experiment,
        requests=len(answers),
        seconds=seconds,
        throughput=len(standing) / seconds,
        p50_ms=quantile(waits, 0.5),
        p99_ms=quantile(waits, 0.99),
        transactions=sum(report.transactions for report in reports),
        outcomes=dict(outcomes),
        conflicts=_sum(report.conflicts for report in reports),
        retries=retries,
        retries_per_request=sum(retries.values()) / requests,
        refusals=outcomes["insufficient_stock"],
        failures=len(answers) - len(standing),
        lock_waits_ms=1000 * (waiting_seconds + outside) / requests,
        timeline=_timeline(standing, started, seconds),
        verdict=verdict,
    )


def quantile(ascending: Sequence[float], share: float) -> float:
    """Return the value that this share does not exceed (nearest rank); 0 of nothing."""
    if not ascending:
        return 0.0
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def _sum(parts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())


def _timeline(answers: Sequence[Answer], started: float, seconds: float) -> list[int]:
    counts = [0] * (int(seconds / SLICE_SECONDS) + 1)
    for answer in answers:
        counts[int((answer.answered - started) / SLICE_SECONDS)] += 1
    return counts[:-1] or counts
