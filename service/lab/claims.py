"""The preset `claims` tests claims of the literature about these techniques.

Every strategy runs in every setting for several rounds. The runs are interleaved, in a different
order each round, so that a machine that slows down affects all strategies alike. Figures are
medians over the rounds. A difference counts when every round agrees and its median exceeds 10 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from service.lab.experiment import Experiment
from service.lab.experiment_runner import ExperimentRunner
from service.lab.insertion import InsertionResult, insert_everywhere
from service.lab.result import RunResult

DIFFERENCE_MIN = 0.1
"""Smaller differences vary between runs on a shared machine."""

ROUNDS = 3
STRATEGIES = ("guard", "version", "pessimistic", "redis", "zookeeper")

SETTINGS: dict[str, dict[str, Any]] = {
    "one SKU, merged": {"skus": 1, "merge": True},
    "one SKU, one transaction per request": {"skus": 1, "merge": False},
    "1,000 SKUs, merged": {"skus": 1000, "merge": True},
    "1,000 SKUs, one transaction per request": {"skus": 1000, "merge": False},
}
"""From the most contended setting to the least, with and without merging."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the literature, as a comparison of throughput."""

    sentence: str
    source: str
    pairs: tuple[tuple[str, str], ...]
    """(the strategy that should be faster, the one that should be slower)."""


CLAIMS = (
    Claim(
        "Optimistic beats pessimistic",
        "Kung and Robinson, TODS 1981, for rare conflicts; Agrawal, Carey and Livny, TODS 1987,"
        " found locking better where a restart wastes scarce resources",
        (("guard", "pessimistic"), ("version", "pessimistic")),
    ),
    Claim(
        "For stock, the condition beats the version",
        "the usual advice for flash sales: `available >= n` fails only when units are short,"
        " `version = v` fails whenever another request changed the row",
        (("guard", "version"),),
    ),
    Claim(
        "A distributed lock is slower than a row lock",
        "Kleppmann, How to do distributed locking, 2016: a distributed lock costs round trips and"
        " protects nothing by itself",
        (("pessimistic", "redis"), ("pessimistic", "zookeeper")),
    ),
)


@dataclass(slots=True)
class Comparison:
    """Two strategies in one setting: the throughput of the first divided by the second's."""

    setting: str
    faster: str
    slower: str
    ratio: float
    """The median of the rounds' ratios."""
    lowest: float
    highest: float

    @property
    def verdict(self) -> str:
        """Return whether the claim holds in this setting."""
        if self.ratio > 1 + DIFFERENCE_MIN and self.lowest > 1:
            return "holds"
        if self.ratio < 1 / (1 + DIFFERENCE_MIN) and self.highest < 1:
            return "the opposite holds"
        return "no clear difference"


@dataclass(slots=True)
class Judgement:
    """A claim, its comparisons and the settings in which it holds."""

    sentence: str
    source: str
    verdict: str
    comparisons: list[Comparison]


@dataclass(slots=True)
class ClaimsResult:
    """All results of the preset."""

    judgements: list[Judgement]
    medians: dict[str, list[RunResult]]
    """For each setting, the round with the median throughput of each strategy."""
    insertions: list[InsertionResult]
    insertion_verdict: str
    rounds: int
    results: list[RunResult]
    """The result of every run."""


async def measure_claims(
    runner: ExperimentRunner,
    basis: Experiment,
    strategies: Sequence[str],
    rounds: int = ROUNDS,
    report_progress: Callable[[str], None] = lambda _: None,
) -> ClaimsResult:
    """Measure every strategy in every setting and judge each claim.

    The retry budget is so large that no request gives up: giving up would make a strategy look
    fast.
    """
    runs: dict[str, dict[str, list[RunResult]]] = {
        setting: {strategy: [] for strategy in strategies} for setting in SETTINGS
    }
    for turn in range(rounds):
        for setting, values in SETTINGS.items():
            for strategy in _rotated(strategies, turn):
                report_progress(f"round {turn + 1} of {rounds}: {strategy}, {setting}")
                experiment = replace(
                    basis, strategy=strategy, seed=basis.seed + turn, retry_share=1000.0, **values
                )
                runs[setting][strategy].append(await runner.run(experiment))
    report_progress("select, then insert")
    async with runner.sandbox.database() as url:
        insertions = await insert_everywhere(url, basis.seed)
    return ClaimsResult(
        judgements=[judge_claim(claim, runs) for claim in CLAIMS],
        medians={
            setting: [_median_run(results) for results in by_strategy.values()]
            for setting, by_strategy in runs.items()
        },
        insertions=insertions,
        insertion_verdict=judge_insertions(insertions),
        rounds=rounds,
        results=[each for by in runs.values() for results in by.values() for each in results],
    )


def judge_claim(claim: Claim, runs: dict[str, dict[str, list[RunResult]]]) -> Judgement:
    """Compare the strategies of a claim in every setting in which both were run."""
    comparisons = []
    for setting, by_strategy in runs.items():
        for faster, slower in claim.pairs:
            if by_strategy.get(faster) and by_strategy.get(slower):
                ratios = [
                    ours.throughput / max(theirs.throughput, 1e-9)
                    for ours, theirs in zip(by_strategy[faster], by_strategy[slower], strict=True)
                ]
                comparisons.append(
                    Comparison(setting, faster, slower, median(ratios), min(ratios), max(ratios))
                )
    return Judgement(claim.sentence, claim.source, _overall(comparisons), comparisons)


def _overall(comparisons: Sequence[Comparison]) -> str:
    """Return a sentence that names the settings in which a claim holds."""
    if not comparisons:
        return "not measured: a strategy of this claim could not be run"
    holds = [each for each in comparisons if each.verdict == "holds"]
    opposite = [each for each in comparisons if each.verdict == "the opposite holds"]
    if len(holds) == len(comparisons):
        return "holds everywhere"
    parts = []
    if holds:
        parts.append(f"holds in {_where(holds)}")
    if opposite:
        parts.append(f"the opposite holds in {_where(opposite)}")
    rest = len(comparisons) - len(holds) - len(opposite)
    if rest:
        parts.append(f"no clear difference in {rest} of {len(comparisons)} comparisons")
    return "; ".join(parts)


def _where(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(f"“{each.setting}” ({each.faster} : {each.slower})" for each in comparisons)


def judge_insertions(insertions: Sequence[InsertionResult]) -> str:
    """Return a sentence that names the crowds with which select-then-insert broke."""
    naive = [each for each in insertions if each.way == "select, then insert"]
    broken = [f"{each.crowd} ({each.duplicates} duplicates)" for each in naive if each.duplicates]
    safe = [each.crowd for each in naive if not each.duplicates]
    others = sum(each.duplicates for each in insertions if each not in naive)
    if not broken:
        return "it did not break in this run"
    held = f"; it did not with {', '.join(safe)}" if safe else ""
    return (
        f"holds: it broke with {', '.join(broken)}{held}."
        f" With a unique index or SERIALIZABLE there were {others} duplicates."
    )


def _rotated(strategies: Sequence[str], turn: int) -> list[str]:
    start = turn % max(1, len(strategies))
    return [*strategies[start:], *strategies[:start]]


def _median_run(results: Sequence[RunResult]) -> RunResult:
    ordered = sorted(results, key=lambda result: result.throughput)
    return ordered[len(ordered) // 2]
