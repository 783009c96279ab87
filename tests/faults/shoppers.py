"""Clients that order during faults: each repeats a request until its answer is final."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx

from tests.faults.acknowledged import Ack, AcknowledgedLog

PLENTY = ("A", "B", "C")
SCARCE = "scarce"
"""A SKU with so few units that most orders are refused, and must stay refused."""
ANSWER_SECONDS_MAX = 12.0  # the service promises ten
RETRY_SECONDS = (0.05, 0.3)


class Contradiction(AssertionError):
    """An answer that contradicts an earlier answer."""


class Shoppers:
    """The clients of a service, their answers and the times that they waited."""

    def __init__(self, url: str, headers: dict[str, str], log: AcknowledgedLog, seed: int) -> None:
        self.url = url
        self.headers = headers
        self.log = log
        self.seed = seed
        self.answers: Counter[str] = Counter()
        """Answers by status and code; `lost`: the connection ended; `none`: no answer in time."""
        self.slowest_seconds = 0.0
        self.done_at: list[float] = []
        """The moments at which requests got their final answers."""
        self._leaving = False
        self._tasks: list[asyncio.Task[None]] = []

    async def open_shop(self) -> None:
        """Create the stock rows."""
        async with self._client() as http:
            for sku, units in {**dict.fromkeys(PLENTY, 10**9), SCARCE: 500}.items():
                await self._insist(http, "PUT", f"/v1/stock/{sku}/main", {"available": units})

    @asynccontextmanager
    async def shopping(self, count: int) -> AsyncIterator[None]:
        """Let the clients order until the block ends; each finishes its last order."""
        self._leaving = False
        self._tasks = [asyncio.create_task(self._shop(number)) for number in range(count)]
        try:
            yield
        except BaseException:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise
        self._leaving = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def progress(self, answers: int, seconds: float) -> float:
        """Wait for a number of final answers; return the time until the first one."""
        start, before = time.monotonic(), len(self.done_at)
        async with asyncio.timeout(seconds):
            while len(self.done_at) < before + answers:
                await asyncio.sleep(0.01)
                for task in self._tasks:
                    if task.done():
                        task.result()
        return self.done_at[before] - start

    async def _shop(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        prefix = f"{time.time_ns():x}-{number}"
        async with self._client() as http:
            for order in itertools.count():
                if self._leaving:
                    return
                await self._order(http, f"{prefix}-{order}", chance)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=ANSWER_SECONDS_MAX
        )

    async def _order(self, http: httpx.AsyncClient, seq: str, chance: random.Random) -> None:
        """Buy or hold, then perhaps confirm or cancel, then perhaps refund everything."""
        skus = chance.sample(PLENTY, 2) if chance.random() < 0.9 else [SCARCE]
        lines = [{"sku": sku, "quantity": chance.randint(1, 3)} for sku in skus]
        hold = chance.choice([{}, {"hold_seconds": 600}, {"hold_seconds": 1}])
        body = {"seq": seq, "lines": lines, **hold}
        response = await self._insist(http, "POST", "/v1/reservations", body)
        if response.status_code == 409:
            self.log.add(Ack(response.json()["reservation_id"], 1, "rejected"))
            return
        reservation = self._note(response)
        address = f"/v1/reservations/{reservation['id']}"
        if hold.get("hold_seconds") == 600:
            step = chance.choice(["confirm", "cancel"])
            reservation = self._note(await self._insist(http, "POST", f"{address}/{step}", None))
        if reservation["state"] == "confirmed" and chance.random() < 0.3:
            refund = await self._insist(http, "POST", f"{address}/refunds", {"seq": seq})
            UUID(refund.json()["id"])
            version = reservation["version"] + 1
            self.log.add(Ack(reservation["id"], version, "refunded", refund.json()["id"]))

    def _note(self, response: httpx.Response) -> dict[str, Any]:
        if not response.is_success:
            raise Contradiction(response.text)
        reservation: dict[str, Any] = response.json()
        ack = Ack(reservation["id"], reservation["version"], reservation["state"])
        self.log.add(ack)
        return reservation

    async def _insist(
        self, http: httpx.AsyncClient, method: str, path: str, body: Any
    ) -> httpx.Response:
        """Send the same bytes until the answer is final."""
        headers = {"If-None-Match": "*"} if method == "PUT" else None
        while True:
            start = time.monotonic()
            try:
                response = await http.request(method, path, json=body, headers=headers)
            except httpx.TimeoutException:
                self.answers["none"] += 1
            except httpx.HTTPError:
                self.answers["lost"] += 1
            else:
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - start)
                code = "" if response.is_success else f" {response.json()['code']}"
                self.answers[f"{response.status_code}{code}"] += 1
                if response.status_code < 500 and response.status_code != 429:
                    self.done_at.append(time.monotonic())
                    return response
            await asyncio.sleep(random.uniform(*RETRY_SECONDS))
