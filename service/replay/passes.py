"""Sends all requests of a replay plan: the stock once, the requests in each pass.

First an import creates the stock. Then each pass sends the write-offs and the orders. The refunds
of an order follow it in the file's order, from the same sender; different orders are sent
concurrently. `service.replay.checks` sends everything twice and compares the passes.
"""

import asyncio
import csv
import io
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from msgspec.json import encode

from service.replay.client import ApiResponse, Client, ClientError, JobMismatch
from service.replay.orders import Order, OrderLine, ReplayPlan, Return, WriteOff

T = TypeVar("T")


@dataclass(slots=True)
class Pass:
    """Sends all requests of a plan once and keeps the answers by kind and seq."""

    client: Client
    advance: Callable[[int], None]
    """Called with the number of requests that were sent or left out."""
    answers: dict[tuple[str, str], ApiResponse] = field(default_factory=dict)
    seconds: float = 0.0

    async def run(self, plan: ReplayPlan, concurrency: int) -> None:
        """Send the write-offs, which can't be refused at a new location, then the orders."""
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
        """Send the reservation and, unless it is refused, its refunds."""
        answer = await self._send(
            "order", order.seq, "/v1/reservations", reservation_body(order, location)
        )
        if answer.status >= 400:
            self.advance(len(order.returns))
            return
        path = f"/v1/reservations/{answer.body['id']}/refunds"
        for one in order.returns:
            await self._send("refund", one.seq, path, refund_body(one, location))

    async def _send(self, kind: str, seq: str, path: str, body: Any) -> ApiResponse:
        answer = await self.client.send("POST", path, encode(body))
        self.answers[kind, seq] = answer
        self.advance(1)
        return answer

    def accepted(self, kind: str, seq: str) -> bool:
        """True when a request was sent and was carried out, now or earlier."""
        answer = self.answers.get((kind, seq))
        return answer is not None and answer.status < 400

    def count(self, kind: str, *, refused: bool = False) -> int:
        """Count the requests of a kind that were carried out, or were refused for lack of stock."""
        wanted = "insufficient_stock" if refused else ""
        return sum(
            answer.code == wanted for (other, _), answer in self.answers.items() if other == kind
        )


async def seed_stock(plan: ReplayPlan, client: Client) -> None:
    """Import the stock that the plan needs, to the location that its prefix names.

    Raises `ClientError` when that location has been used before for something else.
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
            f"{answer.body['skipped']} of {len(plan.seed)} SKUs were already at the"
            f" location {plan.prefix!r}, so the check of its stock would fail. Choose another"
            " with --prefix"
        )


def reservation_body(order: Order, location: str) -> dict[str, Any]:
    """Return the request for an order, with repeated SKUs: the service adds them up."""
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
    """Do the work for all items in order, concurrently. Raises the first error."""
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
