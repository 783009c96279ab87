"""HTTP/1.1 by uvicorn and httptools, with a limit on every size and every wait.

Uvicorn limits neither the size of a request's head nor the time to receive it. httptools stops
reading at an offer to upgrade, and so the body is lost or becomes the next request. This protocol
removes the offer from the head and reads the request without it (RFC 9110, 7.8: a server may
ignore an offer).
"""

import asyncio
import math
import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service import metrics
from service.domain.errors import (
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RateLimited,
    RequestTimeout,
    ServiceError,
    UriTooLong,
)
from service.http.request_id import request_id_of
from service.http.responses import NOSNIFF, problem_response
from service.ops.address_limit import Place
from service.ops.open_connections import OpenConnections
from service.ops.transport import CorkedTransport

HEAD_BYTES_MAX = 32 * 1024
HEAD_LINES_MAX = 100
URL_BYTES_MAX = 8 * 1024
HEAD_SECONDS_MAX = 10.0  # from its first byte, or from the accepted connection
BODY_SECONDS_MAX = 30.0  # from the end of the head: 4 MiB at 140 kB/s
DISCARD_SECONDS_MAX = 2.0  # for the rest of a request that was answered early or was refused
PIPELINED_MAX = 64  # requests that wait behind the one that is being answered


class BoundedProtocol(HttpToolsProtocol):
    """Serves one client's connection."""

    def __init__(self, connections: OpenConnections, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.worker_connections = connections
        self.deadline = math.inf
        """The moment at which the worker stops waiting for the client, in the loop's time."""
        self.idle_since = 0.0
        """The end of the last answer; before the first answer, the connection's beginning."""
        self._unanswered = 0
        self._in_head = False
        self._in_body = False
        self._is_offered = False
        self._is_discarding = False
        self._has_begun = False
        """A head began in the bytes that arrived last."""
        self._header_bytes = 0
        """The bytes of the complete headers, and of the trailers."""
        self._unfinished_bytes = 0
        """The bytes of the head that arrived after its first ones, complete headers included."""
        self._refusal: ServiceError | None = None
        self.url = b""
        self.place: Place | None = None
        """The place of the connection among those of its address, if they are counted."""

    @property
    def is_answering(self) -> bool:
        """True while a request has no complete answer yet."""
        return self._unanswered > 0

    # From the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve. asyncio's type is any transport; uvicorn's type is a TCP transport."""
        corked: Any = CorkedTransport(transport, self.loop)
        super().connection_made(corked)
        self.idle_since = self.loop.time()
        self.deadline = self.idle_since + HEAD_SECONDS_MAX
        if self.place is None:
            self.place = self.worker_connections.enter(transport)
        self.worker_connections.admit(self)
        if self.place is not None and self.place.is_excess and not self._is_discarding:
            self._leave()
            self.reject(RateLimited("This address has too many open connections: close some."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read the bytes that have arrived, unless the connection has been refused."""
        if self._is_discarding:
            return
        self._has_begun = False
        try:
            self._feed(data)
            if self._in_head:
                self._count_unfinished(data)
        except ServiceError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:  # raised in a callback below
            cause = error.__context__
            if not isinstance(cause, ServiceError):
                cause = InvalidRequest.at("request", "has a malformed head")
            self._refuse(cause)
        except httptools.HttpParserError:
            self._refuse(InvalidRequest.at("request", "is not HTTP/1.1"))
        else:
            self._await_rest()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio wants one, uvicorn has none
        """Answer the requests of a client that sends no more; True keeps the connection open."""
        if self._is_discarding:
            return self.is_answering
        if self._in_head or self._in_body:
            self._refuse(InvalidRequest.at("request", "was cut off"))
        elif self.is_answering:
            self.cycle.keep_alive = False
        return self.is_answering

    # From the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._header_bytes = 0
        self.deadline = math.inf

    def on_url(self, url: bytes) -> None:
        """Append a part of the URL. Raises `UriTooLong`."""
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            raise UriTooLong(f"The URL is longer than {URL_BYTES_MAX} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. A trailer, which comes after the body, is only counted."""
        self._header_bytes += len(name) + len(value) + 4
        _check_size(self._header_bytes)
        if len(self.headers) >= HEAD_LINES_MAX:
            raise HeadersTooLarge(f"The request has more than {HEAD_LINES_MAX} header lines.")
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the head must be read again without an offer to upgrade."""
        self._is_offered = self.parser.should_upgrade()
        if self._is_offered:
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            message = (
                f"is one of more than {PIPELINED_MAX} that were sent without waiting for an answer"
            )
            raise InvalidRequest.at("request", message)
        scope: Any = self.scope
        scope["began_at"] = time.perf_counter()
        super().on_headers_complete()
        self._unanswered += 1
        self._in_head, self._in_body = False, True
        self.deadline = math.inf
        if self.worker_connections.is_draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        if self._is_offered:
            return
        self._in_body = False
        self.deadline = math.inf
        super().on_message_complete()

    # From the answer

    def on_response_complete(self) -> None:
        """Continue with the next request, or wait for it."""
        self._unanswered -= 1
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `deadline` replaces it
        if self.is_answering or self.transport.is_closing():
            return
        self.idle_since = self.loop.time()
        if self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._in_body:
            self.deadline = self.idle_since + DISCARD_SECONDS_MAX
        elif not self._in_head:
            self.deadline = self.idle_since + self.worker_connections.keep_alive_seconds

    # From the worker

    def shutdown(self) -> None:
        """Answer the requests that were sent and those that arrive very soon, then close."""
        if self.is_answering:
            self.cycle.keep_alive = False
        elif not self._in_head and not self._in_body:
            self.deadline = min(
                self.deadline, self.idle_since + self.worker_connections.keep_alive_seconds
            )

    def expire(self) -> None:
        """Give up on a client that missed the deadline."""
        if self._is_discarding or not (self._in_head or self._in_body):
            self.close()
        elif self._in_head:
            self._refuse(RequestTimeout(f"The head did not arrive within {HEAD_SECONDS_MAX:g} s."))
        else:
            self._refuse(RequestTimeout(f"The body did not arrive within {BODY_SECONDS_MAX:g} s."))

    def refuse(self, error: ServiceError) -> None:
        """Answer with an error, without reading a request, and close at once."""
        self._is_discarding = True
        self._write(error, "/")
        self.close()

    def close(self) -> None:
        """Send all written bytes, then close without waiting for the client."""
        self.transport.close()

    def reject(self, error: ServiceError) -> None:
        """Answer with an error in place of reading a request, and read the client's bytes."""
        self._is_discarding = True
        self._send_refusal(error)

    def _leave(self) -> None:
        place, self.place = self.place, None
        self.worker_connections.leave(place)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._read_again(data[offer.args[0] :])

    def _read_again(self, rest: bytes) -> None:
        """Read the head again without its offer to upgrade, then the bytes after the head."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise MethodNotAllowed("This server is not a proxy.")
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(b"\r\n".join([*lines, b"", b""]))
        if rest:
            self._feed(rest)

    def _count_unfinished(self, data: bytes) -> None:
        """Count the bytes of a head that is not complete yet. Raises `HeadersTooLarge`.

        The parser does not report a line before it is complete. In the bytes with which the head
        began, only the last line is incomplete.
        """
        if self._has_begun:
            self._unfinished_bytes = len(data) - data.rfind(b"\n") - 1
        else:
            self._unfinished_bytes += len(data)
        _check_size(self._unfinished_bytes)

    def _await_rest(self) -> None:
        """Set the deadline for the rest of a request that has arrived in part."""
        if self.deadline != math.inf:
            return
        if self._in_head:
            self.deadline = self.loop.time() + HEAD_SECONDS_MAX
        elif self._in_body:
            self.deadline = self.loop.time() + BODY_SECONDS_MAX

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error after the answers to earlier requests, and read no more."""
        self._is_discarding = True
        self.deadline = math.inf
        if self._in_body and self.cycle.response_complete:
            self._end()
            return
        if self._in_body:
            self._abandon()
        if self.is_answering:
            self._refusal = error
        else:
            self._send_refusal(error)

    def _abandon(self) -> None:
        """Take the request whose body is broken from the application: the refusal answers it."""
        self._unanswered -= 1
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()  # the newest; the application has not begun with it
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _send_refusal(self, error: ServiceError) -> None:
        path = self.url.partition(b"?")[0][:URL_BYTES_MAX].decode("latin-1") or "/"
        self._write(error, path)
        self._end()

    def _write(self, error: ServiceError, path: str) -> None:
        """Write an error as the last answer of the connection."""
        request_id = request_id_of(self.headers or ())
        answer = problem_response(error, path, request_id.decode())
        headers = [
            *self.server_state.default_headers,
            *answer.headers,
            NOSNIFF,
            (b"x-request-id", request_id),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", answer.body]))
        metrics.REQUESTS.labels("unknown", "unknown", error.status).inc()

    def _end(self) -> None:
        """Send no more; close when the client has closed its side, or after a deadline.

        To close at once, while bytes of the client are unread, would reset the connection, and
        the client could lose the answer (RFC 9112, 9.6).
        """
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.deadline = self.loop.time() + DISCARD_SECONDS_MAX


def _check_size(head_bytes: int) -> None:
    if head_bytes > HEAD_BYTES_MAX:
        raise HeadersTooLarge(f"The headers have more than {HEAD_BYTES_MAX} bytes in all.")
