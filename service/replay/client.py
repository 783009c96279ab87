"""A client of the API that repeats a request, with the same bytes, until it has a final answer.

That is safe because every request carries its identity. If the first attempt was carried out, the
next one gets the answer of the first.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

ATTEMPTS_MAX = 30  # about half a minute, enough for a service to restart
RETRY_AFTER_SECONDS_MAX = 5.0  # longer waits are cut to this one
TIMEOUT_SECONDS = 30.0  # for one answer; a batch of hundreds of lines takes well under one
PAGE_MAX = 500


class ClientError(Exception):
    """The service can't be used; the message names the remedy."""


class JobMismatch(ClientError):
    """An earlier import had the same name and another file."""


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A final answer of the API, with the time and the attempts that it took."""

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
        """The explanation of a refusal, for people."""
        return str(_member(self.body, "detail") or f"status {self.status}")


@dataclass(frozen=True, slots=True)
class Client:
    """Sends requests with a key, at most as many at once as it has connections."""

    url: str
    idle: list[httpx.AsyncClient]
    """Clients of one connection each: httpx needs three times the CPU time to share a pool."""

    async def send(
        self, method: str, path: str, content: bytes = b"", media_type: str = "application/json"
    ) -> ApiResponse:
        """Return the final answer to a request; retry after 429, 503 and lost connections.

        Raises `ClientError` when the key is refused or all attempts failed.
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
            f"{self.url} gave no final answer in {ATTEMPTS_MAX} attempts (the last one:"
            f" {_member(_body(response), 'detail') or response.reason_phrase}). Repair the service"
            " and run the same command again: no request is carried out twice"
        )

    def _answer(self, response: httpx.Response, seconds: float, attempts: int) -> ApiResponse:
        answer = ApiResponse(
            response.status_code,
            _body(response),
            response.headers.get("Idempotency-Replayed") == "true",
            seconds,
            attempts,
        )
        if answer.status == 401:
            raise ClientError(
                f"the key is not known at {self.url}. Give another one with --key or"
                " HOLDFAST_KEY: the first admin key is in <data-dir>/admin.key, and `holdfast"
                " key create` makes new ones"
            )
        if answer.status == 403:
            raise ClientError(
                f"the key lacks a permission: {answer.detail} Make another one with `holdfast"
                " key create --source NAME --scope reserve --scope stock --scope read`"
            )
        if not isinstance(answer.body, dict) or (answer.status >= 400) != bool(answer.code):
            raise ClientError(_not_holdfast(self.url))
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

    async def import_stock(self, job: str, content: bytes, name: str) -> ApiResponse:
        """Send a CSV file of stock under a job's name, which is imported at most once.

        Raises `ClientError` that names each bad line of the file `name`.
        """
        path = f"/v1/imports?job={quote(job, safe='')}"
        answer = await self.send("POST", path, content, "text/csv")
        if answer.code == "idempotency_mismatch":
            raise JobMismatch(
                f"the job {job!r} was done before with another file; nothing was changed now."
                " Choose another name with --job"
            )
        if answer.code == "too_large":
            raise ClientError(f"{name} is too large: {answer.detail} Split the file")
        if answer.code == "invalid_request":
            errors = answer.body.get("errors", [])
            wrong = "; ".join(f"{error['path']}: {error['message']}" for error in errors)
            raise ClientError(f"{name} {wrong}. Nothing was imported")
        if answer.status >= 400:
            raise ClientError(f"{name} was refused: {answer.code}, {answer.detail}")
        return answer


@asynccontextmanager
async def connected(url: str, key: str, concurrency: int = 1) -> AsyncIterator[Client]:
    """Yield a client of a running service.

    Raises `ClientError` when no service answers at that address.
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
            raise ClientError(f"can't send to {url!r} with this key: {error}") from None
        await _check_address(url, idle[0])
        yield Client(url, idle)


async def _check_address(url: str, http: httpx.AsyncClient) -> None:
    """Raise `ClientError` unless Holdfast answers."""
    try:
        response = await http.get("/health/live")
    except httpx.UnsupportedProtocol:
        raise ClientError(f"{url!r} is not an address like http://127.0.0.1:8000") from None
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ClientError(
                f"the certificate of the service at {url} is not trusted ({error}). Name the file"
                " of its authority in SSL_CERT_FILE"
            ) from None
        raise ClientError(
            f"nothing answers at {url} ({str(error) or type(error).__name__}). Start the service"
            " with `holdfast serve`, or name another address with --url"
        ) from None
    if _member(_body(response), "status") != "live":
        raise ClientError(_not_holdfast(url))


async def _ask(
    http: httpx.AsyncClient, method: str, path: str, content: bytes, media_type: str
) -> httpx.Response:
    """Return the response; for a lost connection return a 503 with its error."""
    try:
        return await http.request(
            method, path, content=content, headers={"Content-Type": media_type}
        )
    except httpx.TransportError as error:
        return httpx.Response(503, json={"detail": str(error) or type(error).__name__})


def _not_holdfast(url: str) -> str:
    return f"the server at {url} is not Holdfast. Check --url and HTTP_PROXY"


def _retry_after_seconds(response: httpx.Response) -> float:
    """Return the time to wait. Holdfast always names it; a proxy may not."""
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
