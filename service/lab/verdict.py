"""Checks the rules that hold after every experiment, for each strategy, crowd and fault."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from uuid import UUID

from db.lab.observation import Move
from service.engine.retry import RetryPolicy
from service.lab.crowd import Exchange
from service.lab.experiment import Experiment
from service.lab.history import FINDINGS_MAX, Moved, Refused, check_counter

YES = frozenset({"created", "changed", "unchanged"})
TOLD_TO_RETRY = frozenset(
    {"contention", "overloaded", "unavailable", "outcome_unknown"}
)  # nothing was written, or a repeated request tells the outcome
GIVES_AND_TAKES = ("reserve", "cancel", "refund")


@dataclass(slots=True)
class Verdict:
    """A sentence for each broken rule; all lists are empty when everything held."""

    books: list[str] = field(default_factory=list)
    winners: list[str] = field(default_factory=list)
    once: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    budget: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """True when everything held."""
        return not any(findings for _, findings in self.parts)

    @property
    def parts(self) -> list[tuple[str, list[str]]]:
        """Return each rule with its findings."""
        return [
            ("the books balance", self.books),
            ("every unit has exactly one winner", self.winners),
            ("equal requests have one effect", self.once),
            ("every SKU's history is linearizable", self.history),
            ("every answer is one that clients know", self.answers),
            ("retries stay within their budget", self.budget),
        ]


@dataclass(slots=True)
class _Identity:
    """The answers to all requests with one identity."""

    called: float = inf
    confirmed_at: float = inf
    """The moment of the first final exchange."""
    yes: int = 0
    no: int = 0
    fresh: int = 0
    unclear: int = 0
    shortages: tuple[tuple[str, int, int], ...] = ()


def judge(
    experiment: Experiment,
    exchanges: Sequence[Exchange],
    moves: Mapping[str, Sequence[Move]],
    left: Mapping[str, int],
) -> Verdict:
    """Return the verdict on one run; `left` has the available units of each SKU at the end."""
    asked = _by_identity(exchanges)
    return Verdict(
        winners=_winners(experiment, asked, moves, left),
        once=_once(asked),
        history=_history(experiment, asked, moves),
        answers=_unknown_answers(exchanges),
    )


def judge_budget(experiment: Experiment, retries: int, commands: int, seconds: float) -> list[str]:
    """Return a finding if there were more retries than the policy allows for this traffic."""
    policy = RetryPolicy(share_max=experiment.retry_share)
    per_service = policy.burst_max + seconds * policy.spare_per_second
    allowed = experiment.services * per_service + commands * policy.share_max
    if retries <= allowed:
        return []
    return [f"{retries} retries for {commands} commands, but {allowed:.0f} were allowed"]


def _by_identity(exchanges: Iterable[Exchange]) -> dict[tuple[str, UUID], _Identity]:
    asked: dict[tuple[str, UUID], _Identity] = {}
    for exchange in exchanges:
        one = asked.setdefault((exchange.kind, exchange.reservation), _Identity())
        one.called = min(one.called, exchange.called)
        if exchange.outcome not in YES and exchange.outcome != "insufficient_stock":
            one.unclear += 1
            continue
        one.confirmed_at = min(one.confirmed_at, exchange.answered)
        one.yes += exchange.outcome in YES
        one.no += exchange.outcome not in YES
        one.fresh += not exchange.is_replayed
        one.shortages = exchange.shortages
    return asked


def _once(asked: Mapping[tuple[str, UUID], _Identity]) -> list[str]:
    findings = []
    for (kind, id_), one in asked.items():
        if one.yes and one.no:
            findings.append(f"{kind} {id_}: both accepted and refused")
        if one.fresh > 1:
            findings.append(f"{kind} {id_}: carried out {one.fresh} times")
        if (one.yes or one.no) and not one.fresh and not one.unclear:
            findings.append(
                f"{kind} {id_}: answered as a repetition, but nothing was carried out before"
            )
    return findings[:FINDINGS_MAX]


def _winners(
    experiment: Experiment,
    asked: Mapping[tuple[str, UUID], _Identity],
    moves: Mapping[str, Sequence[Move]],
    left: Mapping[str, int],
) -> list[str]:
    """Check that accepted requests, movements and stock rows agree."""
    moved = {(move.kind, move.reservation) for each in moves.values() for move in each}
    findings = [
        f"{kind} {id_}: accepted, but moved nothing"
        for (kind, id_), one in asked.items()
        if one.yes and kind in GIVES_AND_TAKES and (kind, id_) not in moved
    ]
    for kind, id_ in moved:
        one = asked.get((kind, id_))
        if one is None or (one.no and not one.yes):
            findings.append(f"{kind} {id_}: moved units, but no answer accepted it")
    for sku, units in left.items():
        expected = experiment.stock + sum(move.delta for move in moves.get(sku, ()))
        if units != expected:
            findings.append(f"{sku}: {units} units left, but the movements leave {expected}")
    return findings[:FINDINGS_MAX]


def _history(
    experiment: Experiment,
    asked: Mapping[tuple[str, UUID], _Identity],
    moves: Mapping[str, Sequence[Move]],
) -> list[str]:
    refusals: dict[str, list[Refused]] = {}
    for one in asked.values():
        for sku, units, available in one.shortages:
            refused = Refused(units, available, one.called, one.confirmed_at)
            refusals.setdefault(sku, []).append(refused)
    unasked = _Identity(called=-inf)
    findings = []
    for sku in moves.keys() | refusals.keys():
        history = []
        for move in moves.get(sku, ()):
            one = asked.get((move.kind, move.reservation), unasked)
            history.append(Moved(move.delta, one.called, one.confirmed_at))
        found = check_counter(experiment.stock, history, refusals.get(sku, []))
        findings += [f"{sku}: {finding}" for finding in found]
    return findings[:FINDINGS_MAX]


def _unknown_answers(exchanges: Iterable[Exchange]) -> list[str]:
    """Return the answers that a client of the lab must never get."""
    unknown: dict[str, int] = {}
    for exchange in exchanges:
        if exchange.outcome not in YES | TOLD_TO_RETRY | {"insufficient_stock"}:
            unknown[exchange.outcome] = unknown.get(exchange.outcome, 0) + 1
    return [f"{count} answers {outcome}" for outcome, count in unknown.items()]
