"""Histories: the calls and answers of many clients about a few SKUs, and a model to check them.

The history of each SKU is compared with `Shelf`, the contract for one SKU and one request at a
time. The history is linearizable (Herlihy and Wing, 1990) if `Shelf` gives every answer at some
moment between the call and the answer. A call without an answer may have had its effect at any
later time, or none. An answer which says that nothing was written means no effect. The search for
an order is detangle's, after Wing and Gong (1993) and Lowe (2017).
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import httpx
from detangle import lin

from service.domain.identifiers import reservation_id

NOTHING_WRITTEN = ("contention", "overloaded", "unavailable")

Orders = frozenset[tuple[str, tuple[int, str]]]
"""The seq of each order with its units and state; a refused order has the units then available."""


class Shelf(lin.Model):
    """One SKU with `units` units at the start. A state is the available units and all orders."""

    name = "shelf"

    def __init__(self, units: int) -> None:
        self.units = units

    def init(self) -> tuple[int, Orders]:
        return self.units, frozenset()

    def partition(self, operations: Sequence[lin.Operation]) -> list[list[lin.Operation]]:
        skus: dict[str, list[lin.Operation]] = {}
        for operation in operations:
            skus.setdefault(operation.arg[0], []).append(operation)
        return list(skus.values())

    def step(self, state: tuple[int, Orders], op: lin.Operation) -> tuple[bool, Any]:
        available, orders = state[0], dict(state[1])
        _, *arguments = op.arg
        answer, available = getattr(self, op.f)(available, orders, *arguments)
        return op.status != lin.OK or op.output == answer, (available, frozenset(orders.items()))

    def reserve(self, available: int, orders: Any, seq: str, units: int, state: str) -> Any:
        if seq in orders:
            stored, now = orders[seq]
            if now == "rejected":
                return ("refused", stored, "again"), available
            return ("again", now), available
        if units > available:
            orders[seq] = (available, "rejected")
            return ("refused", available, "first"), available
        orders[seq] = (units, state)
        return ("created", state), available - units

    def confirm(self, available: int, orders: Any, seq: str) -> Any:
        return self.end(available, orders, seq, "confirmed")

    def cancel(self, available: int, orders: Any, seq: str) -> Any:
        return self.end(available, orders, seq, "cancelled")

    def end(self, available: int, orders: Any, seq: str, state: str) -> Any:
        if seq not in orders:
            return ("missing",), available
        units, now = orders[seq]
        if now == state:
            return ("again", now), available
        if now != "held":
            return ("illegal", now), available
        orders[seq] = (units, state)
        return ("done", state), available + (units if state == "cancelled" else 0)

    def refund(self, available: int, orders: Any, seq: str, refund: str) -> Any:
        if refund in orders:
            return ("again", None), available
        if seq not in orders:
            return ("missing",), available
        units, now = orders[seq]
        if now != "confirmed":
            return ("illegal", now), available
        orders[seq], orders[refund] = (units, "refunded"), (0, "refund")
        return ("created", None), available + units

    def look(self, available: int, orders: Any) -> Any:
        return (available, sum(units for units, state in orders.values() if state == "held")), (
            available
        )


def answer_of(response: httpx.Response) -> tuple[Any, ...]:
    """A response in the words of `Shelf`."""
    body, is_repeated = response.json(), "Idempotency-Replayed" in response.headers
    if "shortages" in body and response.status_code == 409:
        return "refused", body["shortages"][0]["available"], "again" if is_repeated else "first"
    if response.status_code == 409:
        return "illegal", body["state"]
    if response.status_code == 404:
        return ("missing",)
    if response.request.method == "GET" and response.is_success:
        return body["available"], body["held"]
    if response.is_success:
        word = "again" if is_repeated else "created" if response.status_code == 201 else "done"
        return word, body.get("state")
    return response.status_code, body.get("code")


class Crowd:
    """Clients that order the same few SKUs; `history` has all their calls and answers.

    `doors` are HTTP clients, one for each service of the same database.
    """

    def __init__(self, doors: Sequence[httpx.AsyncClient], source: str, seed: str) -> None:
        self.history = lin.History()
        self.doors, self.source, self.seed = doors, source, seed
        self.orders: dict[str, list[tuple[str, int, str]]] = {}

    async def shop(self, skus: Sequence[str], units: int, clients: int, requests: int) -> None:
        """Stock the SKUs, divide the clients among the services, and read the stock at the end."""
        self.orders = {sku: [] for sku in skus}
        for sku in skus:
            await _stock(self.doors[0], sku, units)
        await asyncio.gather(*(self._visit(client, requests) for client in range(clients)))
        for sku in skus:
            await self._insist(self.doors[0], "at the end", "look", (sku,))

    async def _visit(self, client: int, requests: int) -> None:
        chance = random.Random(f"{self.seed}/{client}")
        door = self.doors[client % len(self.doors)]
        for number in range(requests):
            f, arguments = self._wish(chance, f"{self.seed}-{client}-{number}")
            await self._insist(door, client, f, arguments)

    def _wish(self, chance: random.Random, seq: str) -> tuple[str, tuple[Any, ...]]:
        """The next call: a new order, or a request about an order of any client."""
        sku = chance.choice(sorted(self.orders))
        known = self.orders[sku]
        if not known or chance.random() < 0.4:
            order = (seq, chance.randint(1, 2), chance.choice(["held", "confirmed"]))
            known.append(order)
            return "reserve", (sku, *order)
        order = chance.choice(known[-4:])
        match chance.choice(["reserve", "confirm", "cancel", "refund", "refund", "look"]):
            case "reserve":
                return "reserve", (sku, *order)
            case "refund":
                return "refund", (sku, order[0], f"back-{order[0]}-{chance.randint(1, 2)}")
            case "look":
                return "look", (sku,)
            case step:
                return step, (sku, order[0])

    async def _insist(
        self, http: httpx.AsyncClient, client: Any, f: str, arguments: tuple[Any, ...]
    ) -> None:
        """Repeat a request until it is answered; every attempt is a call of its own."""
        while not await self._ask(http, client, f, arguments):
            await asyncio.sleep(0.02)

    async def _ask(
        self, http: httpx.AsyncClient, client: Any, f: str, arguments: tuple[Any, ...]
    ) -> bool:
        call = self.history.invoke(client, f, arguments)
        try:
            response = await http.request(**self._request(f, arguments))
        except httpx.HTTPError:
            self.history.info(call)
            return False
        if response.status_code != 503:
            self.history.ok(call, answer_of(response))
            return True
        if response.json()["code"] in NOTHING_WRITTEN:
            self.history.fail(call)
        else:
            self.history.info(call)
        return False

    def _request(self, f: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        sku, *rest = arguments
        if f == "look":
            return {"method": "GET", "url": f"/v1/stock/{sku}/main"}
        if f == "reserve":
            seq, units, state = rest
            hold = {"hold_seconds": 900} if state == "held" else {}
            body = {"seq": seq, "lines": [{"sku": sku, "quantity": units}], **hold}
            return {"method": "POST", "url": "/v1/reservations", "json": body}
        address = f"/v1/reservations/{reservation_id(self.source, rest[0])}"
        if f == "refund":
            return {"method": "POST", "url": f"{address}/refunds", "json": {"seq": rest[1]}}
        return {"method": "POST", "url": f"{address}/{f}"}


async def _stock(http: httpx.AsyncClient, sku: str, units: int) -> None:
    """Create the stock row. The history begins after this."""
    while True:
        try:
            answer = await http.put(
                f"/v1/stock/{sku}/main",
                json={"available": units},
                headers={"If-None-Match": "*"},
            )
        except httpx.HTTPError:
            continue
        if answer.status_code in (201, 412):
            return
