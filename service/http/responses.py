"""Complete responses as they are sent, and the problem documents of errors."""

import time
from typing import Any
from urllib.parse import quote

from litestar.types import Receive, Send

from service import metrics
from service.domain.commands import Outcome
from service.domain.errors import ServiceError
from service.http.compression import COMPRESSED_FROM, GZIP, VARY, accepts_gzip, compress
from service.http.schemas import encode

Header = tuple[bytes, bytes]

API = b"/v1"
READS = ("GET", "HEAD")

JSON = (b"content-type", b"application/json")
HTML = (b"content-type", b"text/html; charset=utf-8")
PROBLEM = (b"content-type", b"application/problem+json")
NOSNIFF = (b"x-content-type-options", b"nosniff")
PRIVATE = (b"cache-control", b"private, no-cache")
NOT_STORED = (b"cache-control", b"no-store")
NO_REFERRER = (b"referrer-policy", b"no-referrer")
REPLAYED = (b"idempotency-replayed", b"true")

ALLOWANCE = "allowance"
"""The key in the ASGI scope of the rate limit's state, for the answers to a source with a limit."""

_COUNTERS: dict[tuple[str, str, int], Any] = {}


class Response:
    """A complete response, sent as it is: to Litestar it is an ASGI application like any other."""

    __slots__ = ("body", "gzipped", "headers", "is_secret", "status")

    def __init__(
        self,
        status: int,
        headers: list[Header],
        body: bytes,
        *,
        gzipped: bytes | None = None,
        is_secret: bool = False,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.gzipped = gzipped
        """The body compressed with gzip, if it was compressed before."""
        self.is_secret = is_secret
        """It is not stored, and not compressed: its length would give it away (BREACH, 2013)."""

    def to_asgi_response(self, *_: Any, **__: Any) -> "Response":
        """Return itself: Litestar calls this method on the response of an exception handler."""
        return self

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response and count it."""
        body, headers = self.body, self.headers
        headers += (NOSNIFF, (b"x-request-id", scope["request_id"]))
        allowance = scope.get(ALLOWANCE)
        if allowance is not None:
            headers += allowance.headers()
        if self.is_secret:
            headers.append(NOT_STORED)
        else:
            if body or self.status == 304:
                headers.append(VARY)
            if len(body) > COMPRESSED_FROM and accepts_gzip(scope["headers"]):
                body = self.gzipped or await compress(body)
                headers.append(GZIP)
            if scope["raw_path"].startswith(API):
                headers.append(PRIVATE if scope["method"] in READS else NOT_STORED)
        if self.status < 300:
            milliseconds = (time.perf_counter() - scope["began_at"]) * 1000
            headers.append((b"server-timing", b"total;dur=%.2f" % milliseconds))
        if self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        route = (scope.get("path_template") or "unknown", str(scope.get("method")), self.status)
        if route not in _COUNTERS:
            _COUNTERS[route] = metrics.REQUESTS.labels(*route)
        _COUNTERS[route].inc()


def json_response(status: int, value: Any, *headers: Header, is_secret: bool = False) -> Response:
    """Return a value as JSON."""
    return Response(status, [JSON, *headers], encode(value), is_secret=is_secret)


def status_of(outcome: Outcome[Any]) -> int:
    """Return the HTTP status of an outcome."""
    if isinstance(outcome, ServiceError):
        return outcome.status
    if outcome.effect == "created":
        return 201
    return 204 if outcome.value is None else 200


def etag(version: int) -> Header:
    """Return the header that names a version."""
    return b"etag", b'"%d"' % version


def stock_path(sku: str, location: str) -> str:
    """Return a stock row's address."""
    return f"/v1/stock/{quote(sku, safe='')}/{quote(location, safe='')}"


def problem(error: ServiceError, instance: str, request_id: str) -> dict[str, Any]:
    """Return an error as a problem document (RFC 9457)."""
    retry_after = {"retry_after": error.retry_after_seconds} if error.retryable else {}
    return {
        "type": f"/problems/{error.code.replace('_', '-')}",
        "title": error.title(),
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "request_id": request_id,
        "code": error.code,
        "retryable": error.retryable,
        "same_seq": error.same_seq,
        **retry_after,
        **error.fields,
    }


def problem_response(
    error: ServiceError, instance: str, request_id: str, *headers: Header
) -> Response:
    """Return an error as a response with its problem document."""
    sent = [PROBLEM, *headers]
    if error.replayed:
        sent.append(REPLAYED)
    if error.retry_after_seconds is not None:
        sent.append((b"retry-after", b"%d" % error.retry_after_seconds))
    if error.status == 401:
        sent.append((b"www-authenticate", b"Bearer"))
    return Response(error.status, sent, encode(problem(error, instance, request_id)))
