"""Compares both passes of a replay: everything happened once, and the stock adds up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.replay.client import ApiResponse, Client
from service.replay.orders import ReplayPlan
from service.replay.passes import Pass

StockRows = dict[str, tuple[int, int, int]]
"""SKU → (available, held, version)."""


@dataclass(slots=True)
class ReplayResult:
    """Both passes and their checks."""

    plan: ReplayPlan
    first: Pass
    second: Pass
    audit: Any
    failures: list[str]
    """A sentence with the remedy for each failed check; empty when all checks passed."""


async def replay_twice(
    plan: ReplayPlan, client: Client, concurrency: int, advance: Callable[[int, int], None]
) -> ReplayResult:
    """Send everything twice and check it; `advance` is called with the pass and its progress.

    `seed_stock` must have run. Raises `ClientError` when the service can't be used.
    """
    first = Pass(client, lambda steps: advance(0, steps))
    await first.run(plan, concurrency)
    before = await client.stock(plan.prefix)
    second = Pass(client, lambda steps: advance(1, steps))
    await second.run(plan, concurrency)
    after = await client.stock(plan.prefix)
    audit = (await client.send("GET", "/v1/audit")).body
    failures = [
        *check_first_pass(plan, first),
        *check_second_pass(first, second),
        *check_stock(plan, first, before, after),
        *check_audit(audit),
    ]
    return ReplayResult(plan, first, second, audit, failures)


def check_first_pass(plan: ReplayPlan, first: Pass) -> list[str]:
    """Check that no request was refused, apart from orders where stock is short."""
    may_refuse = sum(plan.seed.values()) < plan.units_needed
    wrong = [
        f"{kind} {seq} got {answer.status} {answer.code}: {answer.detail}"
        for (kind, seq), answer in first.answers.items()
        if answer.code
        and not (may_refuse and kind == "order" and answer.code == "insufficient_stock")
    ]
    advice = (
        "Run again with a new --prefix, while no other client uses that location. If it happens"
        " again, report this bug"
    )
    return _sentence("requests were refused without a reason", wrong, advice)


def check_second_pass(first: Pass, second: Pass) -> list[str]:
    """Check that every answer repeats the one of the first pass."""
    wrong = [
        f"{kind} {seq} got {answer.status} {answer.code}".rstrip()
        for (kind, seq), answer in second.answers.items()
        if not answer.replayed or not _same(first.answers.get((kind, seq)), answer)
    ]
    if second.answers.keys() != first.answers.keys():
        wrong.append("the passes did not send the same requests")
    advice = "A request was carried out twice, or its answer changed: report this bug"
    return _sentence("requests of the second pass got another answer than before", wrong, advice)


def _same(before: ApiResponse | None, now: ApiResponse) -> bool:
    """True when two answers have the same outcome for the same resource."""
    if before is None or before.code != now.code:
        return False
    name = "reservation_id" if now.code else "id"
    return bool(before.body.get(name) == now.body.get(name))


def check_stock(plan: ReplayPlan, first: Pass, before: StockRows, after: StockRows) -> list[str]:
    """Check that stock equals the sum of the answers and that the second pass changed no row."""
    expected = expected_stock(plan, first)
    wrong = [
        f"{sku} has {before.get(sku, (None,))[0]} available, but {available} should be left"
        for sku, available in expected.items()
        if before.get(sku, (None, None))[:2] != (available, 0)
    ]
    moved = [
        f"{sku} changed from {before.get(sku)} to {after.get(sku)} (available, held, version)"
        for sku in sorted(before.keys() | after.keys())
        if before.get(sku) != after.get(sku)
    ]
    advice = (
        f"If no other client uses the location {plan.prefix!r}, units were lost or sold twice:"
        " report this bug"
    )
    return [
        *_sentence("stock rows differ from the sum of the answers", wrong, advice),
        *_sentence("stock rows were changed by the second pass", moved, advice),
    ]


def expected_stock(plan: ReplayPlan, first: Pass) -> dict[str, int]:
    """Return the units of each SKU that must be left after the requests that were carried out."""
    left = dict(plan.seed)
    for write_off in plan.write_offs:
        if first.accepted("write-off", write_off.seq):
            left[write_off.sku] += write_off.delta
    for order in plan.orders:
        if first.accepted("order", order.seq):
            for sku, quantity in order.units.items():
                left[sku] -= quantity
        for one in order.returns:
            if first.accepted("refund", one.seq):
                for sku, quantity in one.units.items():
                    left[sku] += quantity
    return left


def check_audit(audit: Any) -> list[str]:
    """Check that the service's own audit finds no drift."""
    if audit["balanced"]:
        return []
    return _sentence(
        "drifts were found by the service's audit",
        [str(drift) for drift in audit["drift"]],
        "Run `holdfast audit` for all of them, keep the database, and report this bug",
    )


def _sentence(failure: str, examples: Sequence[str], advice: str) -> list[str]:
    """Return one sentence about a failure with its first example, or none without examples."""
    if not examples:
        return []
    return [f"{len(examples)} {failure}, the first: {examples[0]}. {advice}."]
