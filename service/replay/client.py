"""A client of the service's own API: keeps asking while the answer is "later", with the same bytes.

That is safe because every request carries its identity: whatever became of the first attempt, the
next one gets its answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

ATTEMPTS_MAX = 30  # about half a minute: a service that restarts is back by then
RETRY_AFTER_SECONDS_MAX = 5.0  # a server that asks for more is asked sooner, and at last given up
TIMEOUT_SECONDS = 30.0  # for one answer; a batch of hundreds of lines takes well under one
PAGE_MAX = 500


class ClientError(Exception):
    """The service can't be used; the message says what to do."""


class JobMismatch(ClientError):
    """An import of that name was done before, with another file."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, with what it took to get it."""

    status: int
    body: Any
    replayed: bool
    seconds: float
    """From the first attempt to the answer, waits included."""
    attempts: int

    @property
    def code(self) -> str:
        """The problem's code; empty for a success."""
        return str(_member(self.body, "code") or "")

    @property
    def detail(self) -> str:
        """What a refusal says for people."""
        return str(_member(self.body, "detail") or f"status {self.status}")


@dataclass(frozen=True, slots=True)
class Client:
    """Sends requests with a key, as many at once as it was `connected` for."""

    url: str
    idle: list[httpx.AsyncClient]
    """One connection each: sharing a pool costs httpx three times the processor time."""

    async def send(
        self, method: str, path: str, content: bytes = b"", media_type: str = "application/json"
    ) -> Answer:
        """Return the answer to a request; "later" and a lost connection are tried again.

        Raises `ClientError` when the key is refused or no answer is to be had.
        """
        http = self.idle.pop()
        started = time.perf_counter()
        try:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                response = await _ask(http, method, path, content, media_type)
                if response.status_code not in (429, 503):
                    return self._answer(response, time.perf_counter() - started, attempt)
                if attempt < ATTEMPTS_MAX:
                    await asyncio.sleep(_retry_after_seconds(response))
        finally:
            self.idle.append(http)
        raise ClientError(
            f"{self.url} gave no answer in {ATTEMPTS_MAX} attempts (the last:"
            f" {_member(_body(response), 'detail') or response.reason_phrase}). See to the service"
            " and run the same command again: what was done is not done twice"
        )

    def _answer(self, response: httpx.Response, seconds: float, attempts: int) -> Answer:
        answer = Answer(
            response.status_code,
            _body(response),
            response.headers.get("Idempotency-Replayed") == "true",
            seconds,
            attempts,
        )
        if answer.status == 401:
            raise ClientError(
                f"the key is not known at {self.url}. Give another with --key or"
                " HOLDFAST_KEY: the first admin key lies in <data-dir>/admin.key, and `holdfast"
                " key create` makes one"
            )
        if answer.status == 403:
            raise ClientError(
                f"the key does not suffice: {answer.detail} Make one with `holdfast key create"
                " --source NAME --scope reserve --scope stock --scope read`"
            )
        if not isinstance(answer.body, dict) or (answer.status >= 400) != bool(answer.code):
            raise ClientError(_stranger(self.url))
        return answer

    async def stock(self, location: str) -> dict[str, tuple[int, int, int]]:
        """Return (available, held, version) of every SKU at a location."""
        found: dict[str, tuple[int, int, int]] = {}
        path = f"/v1/stock?location={quote(location, safe='')}&limit={PAGE_MAX}"
        cursor = ""
        while True:
            page = (await self.send("GET", path + cursor)).body
            for row in page["items"]:
                found[row["sku"]] = row["available"], row["held"], row["version"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    async def import_stock(self, job: str, content: bytes, name: str) -> Answer:
        """Send a CSV file of stock under a job's name, once whatever happens.

        Raises `ClientError` that names each bad line of the file `name`.
        """
        path = f"/v1/imports?job={quote(job, safe='')}"
        answer = await self.send("POST", path, content, "text/csv")
        if answer.code == "idempotency_mismatch":
            raise JobMismatch(
                f"the job {job!r} was done before with another file; nothing was changed now."
                " Name this one otherwise with --job"
            )
        if answer.code == "too_large":
            raise ClientError(f"{name} is too large: {answer.detail} Split it")
        if answer.code == "invalid_request":
            errors = answer.body.get("errors", [])
            wrong = "; ".join(f"{error['path']}: {error['message']}" for error in errors)
            raise ClientError(f"{name} {wrong}. Nothing was imported")
        if answer.status >= 400:
            raise ClientError(f"{name} was refused: {answer.code}, {answer.detail}")
        return answer


@asynccontextmanager
async def connected(url: str, key: str, concurrency: int = 1) -> AsyncIterator[Client]:
    """Give a client of a service that answers.

    Raises `ClientError` when there is none at that address.
    """
    async with AsyncExitStack() as stack:
        try:
            context = httpx.create_ssl_context()
            idle = [
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=url,
                        headers={"Authorization": f"Bearer {key}"},
                        timeout=TIMEOUT_SECONDS,
                        verify=context,
                    )
                )
                for _ in range(concurrency)
            ]
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url!r} with this key can't be sent to: {error}") from None
        await _check_address(url, idle[0])
        yield Client(url, idle)


async def _check_address(url: str, http: httpx.AsyncClient) -> None:
    """Raise `ClientError` unless Holdfast answers."""
    try:
        response = await http.get("/health/live")
    except httpx.UnsupportedProtocol:
        raise ClientError(f"{url!r} is no address like http://127.0.0.1:8000") from None
    except httpx.TransportError as error:
        raise ClientError(
            f"nothing answers at {url} ({str(error) or type(error).__name__}). Start the service"
            " with `holdfast serve`, or name another address with --url"
        ) from None
    if _member(_body(response), "status") != "live":
        raise ClientError(_stranger(url))


async def _ask(
    http: httpx.AsyncClient, method: str, path: str, content: bytes, media_type: str
) -> httpx.Response:
    """Return the response; a connection that was lost is a 503 that says so."""
    try:
        return await http.request(
            method, path, content=content, headers={"Content-Type": media_type}
        )
    except httpx.TransportError as error:
        return httpx.Response(503, json={"detail": str(error) or type(error).__name__})


def _stranger(url: str) -> str:
    return f"what answers at {url} is not Holdfast. Check --url (and HTTP_PROXY)"


def _retry_after_seconds(response: httpx.Response) -> float:
    """How long to wait; Holdfast always says, a proxy may not."""
    try:
        seconds = float(response.headers.get("Retry-After", "1"))
    except ValueError:
        seconds = 1.0
    return min(max(seconds, 0.1), RETRY_AFTER_SECONDS_MAX)


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _member(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None
