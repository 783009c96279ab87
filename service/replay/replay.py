"""Real orders against a running service, twice: what was asked for happens once, and it adds up.

Stock is seeded through an import, write-offs are sent, then orders. An order's refunds follow it in
the file's order, by the same sender; different orders go side by side. Then all of it is sent again
and nothing may move. Whatever does not hold becomes a sentence in `Replay.failures`.
"""

import asyncio
import csv
import io
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from msgspec.json import encode

from service.replay.client import Answer, Client, ClientError, JobMismatch
from service.replay.orders import Order, OrderLine, Plan, Return, WriteOff

T = TypeVar("T")

StockRows = dict[str, tuple[int, int, int]]
"""SKU → (available, held, version)."""


@dataclass(slots=True)
class Pass:
    """One time through all requests of a plan, and their answers by kind and seq."""

    client: Client
    advance: Callable[[int], None]
    """Told how many requests are done with, sent or not."""
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    seconds: float = 0.0

    async def run(self, plan: Plan, concurrency: int) -> None:
        """Send everything: write-offs, which can't fail on a fresh location, before orders."""
        started = time.perf_counter()
        location = plan.prefix
        await for_each(plan.write_offs, lambda one: self._write_off(one, location), concurrency)
        await for_each(plan.orders, lambda one: self._order(one, location), concurrency)
        self.seconds = time.perf_counter() - started

    async def _write_off(self, one: WriteOff, location: str) -> None:
        path = f"/v1/stock/{quote(one.sku, safe='')}/{quote(location, safe='')}/adjustments"
        body = {"seq": one.seq, "delta": one.delta, "reason": one.reason}
        await self._send("write-off", one.seq, path, body)

    async def _order(self, order: Order, location: str) -> None:
        """Reserve and, unless that is refused, refund."""
        answer = await self._send(
            "order", order.seq, "/v1/reservations", reservation_body(order, location)
        )
        if answer.status >= 400:
            self.advance(len(order.returns))
            return
        path = f"/v1/reservations/{answer.body['id']}/refunds"
        for one in order.returns:
            await self._send("refund", one.seq, path, refund_body(one, location))

    async def _send(self, kind: str, seq: str, path: str, body: Any) -> Answer:
        answer = await self.client.send("POST", path, encode(body))
        self.answers[kind, seq] = answer
        self.advance(1)
        return answer

    def accepted(self, kind: str, seq: str) -> bool:
        """True when a request was sent and carried out, now or before."""
        answer = self.answers.get((kind, seq))
        return answer is not None and answer.status < 400

    def count(self, kind: str, *, refused: bool = False) -> int:
        """Count the requests of a kind that were carried out, or refused for lack of stock."""
        wanted = "insufficient_stock" if refused else ""
        return sum(
            answer.code == wanted for (other, _), answer in self.answers.items() if other == kind
        )


@dataclass(slots=True)
class Replay:
    """What came of it."""

    plan: Plan
    first: Pass
    second: Pass
    audit: Any
    failures: list[str]
    """What did not hold, each a sentence that says what to do; empty when all did."""


async def replay(
    plan: Plan, client: Client, concurrency: int, advance: Callable[[int, int], None]
) -> Replay:
    """Send everything twice and check; `advance` is told the pass and its progress.

    The stock is there already, see `seed`. Raises `ClientError` when the service can't be used.
    """
    first = Pass(client, lambda steps: advance(0, steps))
    await first.run(plan, concurrency)
    before = await client.stock(plan.prefix)
    second = Pass(client, lambda steps: advance(1, steps))
    await second.run(plan, concurrency)
    after = await client.stock(plan.prefix)
    audit = (await client.send("GET", "/v1/audit")).body
    failures = [
        *check_first(plan, first),
        *check_second(first, second),
        *check_stock(plan, first, before, after),
        *check_audit(audit),
    ]
    return Replay(plan, first, second, audit, failures)


async def seed(plan: Plan, client: Client) -> None:
    """Import the stock that the plan needs, at the location that its prefix names.

    Raises `ClientError` when other orders, or other hands, have used that location.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sku", "location", "available"])
    writer.writerows([sku, plan.prefix, available] for sku, available in plan.seed.items())
    try:
        answer = await client.import_stock(plan.prefix, text.getvalue().encode(), "the stock")
    except JobMismatch:
        raise ClientError(
            f"the prefix {plan.prefix!r} was used before, for other orders or another"
            " --stock-share. Choose another with --prefix"
        ) from None
    if answer.body["skipped"]:
        raise ClientError(
            f"{answer.body['skipped']} of {len(plan.seed)} SKUs were at the location"
            f" {plan.prefix!r} before we came, so its stock would not add up. Choose another"
            " with --prefix"
        )


def reservation_body(order: Order, location: str) -> dict[str, Any]:
    """Return the request for an order, its lines as they stand: the service adds them up."""
    first: OrderLine = order.lines[0]
    metadata = {"ordered_at": first.ordered_at.isoformat()}
    if first.customer:
        metadata["customer"] = first.customer
    lines = [
        {"sku": line.sku, "location": location, "quantity": line.quantity} for line in order.lines
    ]
    return {"seq": order.seq, "lines": lines, "metadata": metadata}


def refund_body(one: Return, location: str) -> dict[str, Any]:
    """Return the request for a refund."""
    lines = [
        {"sku": sku, "location": location, "quantity": quantity}
        for sku, quantity in one.units.items()
    ]
    return {"seq": one.seq, "lines": lines, "reason": one.reason}


async def for_each(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int
) -> None:
    """Do the work for all items, so many at once, begun in their order. Raises its first error."""
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(take())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def check_first(plan: Plan, first: Pass) -> list[str]:
    """Every answer is one that these orders may get: carried out, or short where stock is short."""
    may_refuse = sum(plan.seed.values()) < plan.units_needed
    wrong = [
        f"{kind} {seq} got {answer.status} {answer.code}: {answer.detail}"
        for (kind, seq), answer in first.answers.items()
        if answer.code
        and not (may_refuse and kind == "order" and answer.code == "insufficient_stock")
    ]
    advice = (
        "Run again with a fresh --prefix, while nothing else uses that location; if it stays, it is"
        " a bug worth reporting"
    )
    return _sentence("requests were refused that there was no reason to refuse", wrong, advice)


def check_second(first: Pass, second: Pass) -> list[str]:
    """Every answer is a replay of the same thing."""
    wrong = [
        f"{kind} {seq} got {answer.status} {answer.code}".rstrip()
        for (kind, seq), answer in second.answers.items()
        if not answer.replayed or not _same(first.answers.get((kind, seq)), answer)
    ]
    if second.answers.keys() != first.answers.keys():
        wrong.append("the passes differ in what could be sent")
    advice = "A request was carried out twice or its answer changed: report this bug"
    return _sentence("requests of the second pass were not answered as before", wrong, advice)


def _same(before: Answer | None, now: Answer) -> bool:
    """True when two answers are about one thing with one outcome."""
    if before is None or before.code != now.code:
        return False
    name = "reservation_id" if now.code else "id"
    return bool(before.body.get(name) == now.body.get(name))


def check_stock(plan: Plan, first: Pass, before: StockRows, after: StockRows) -> list[str]:
    """Stock is what the answers say, and the second pass left even the versions alone."""
    expected = expected_stock(plan, first)
    wrong = [
        f"{sku} has {before.get(sku, (None,))[0]} available where {available} are left"
        for sku, available in expected.items()
        if before.get(sku, (None, None))[:2] != (available, 0)
    ]
    moved = [
        f"{sku} went from {before.get(sku)} to {after.get(sku)} (available, held, version)"
        for sku in sorted(before.keys() | after.keys())
        if before.get(sku) != after.get(sku)
    ]
    advice = (
        f"If nothing else uses the location {plan.prefix!r}, units were lost or sold twice: report"
        " this bug"
    )
    return [
        *_sentence("stock rows are not what the answers add up to", wrong, advice),
        *_sentence("stock rows were moved by the second pass", moved, advice),
    ]


def expected_stock(plan: Plan, first: Pass) -> dict[str, int]:
    """Return what must be left of each SKU, from the plan and which requests were carried out."""
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
    """The service's own books balance."""
    if audit["balanced"]:
        return []
    return _sentence(
        "drifts were found by the service's audit",
        [str(drift) for drift in audit["drift"]],
        "Run `holdfast audit` for all of them, keep the database, and report this bug",
    )


def _sentence(what: str, wrong: Sequence[str], advice: str) -> list[str]:
    """Return one sentence about what is wrong, or none if nothing is."""
    return [f"{len(wrong)} {what}, the first: {wrong[0]}. {advice}."] if wrong else []
