"""Reads the metrics of this process."""

from typing import Any

from service import metrics


def counted(counter: Any) -> dict[tuple[str, ...], float]:
    """The values of a counter by their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for sample in counter.collect()[0].samples
        if sample.name.endswith("_total")
    }


def conflicts(kind: str) -> float:
    """The number of transactions that lost a race of that kind."""
    return sum(value for labels, value in counted(metrics.CONFLICTS).items() if labels[0] == kind)
