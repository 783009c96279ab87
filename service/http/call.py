"""A request on its way through a route: its bytes, and the values that were read so far."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote_to_bytes
from uuid import UUID

from litestar.types import Receive, Scope

from service.domain.commands import Caller, Command, Outcome, R_co
from service.domain.errors import Forbidden, InvalidRequest, NotFound
from service.http.access.credential import Credential
from service.http.worker_state import WorkerState
from service.input import headers
from service.input.names import UUID_FORM, name_at, path_name_at

B = TypeVar("B")
T = TypeVar("T")

UNDECODED = "\ufffd"
"""The character that replaces each byte of a raw path that is not UTF-8."""


class Call(Generic[B]):
    """A request, the state of the worker that serves it, and the values that were read from it.

    The route fills in `credential`, `stock_names`, `query` and `body`, as far as its operation
    declares them.
    """

    __slots__ = (
        "body",
        "credential",
        "query",
        "reaches_other_source",
        "receive",
        "scope",
        "source_in_flight",
        "stock_names",
        "waited_seconds",
        "worker",
    )

    credential: Credential
    body: B
    query: Mapping[str, Any]
    """The value of each query parameter that the operation declares; None for an absent one."""
    stock_names: Mapping[str, str]
    """The SKU and the location in the path, as far as it has them."""
    source_in_flight: str | None
    """The source for which the request counts as under way; None before it is admitted."""
    waited_seconds: float
    """The time for which the request has waited for space in the queue already."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.worker: WorkerState = cast("Any", scope["litestar_app"]).worker
        self.source_in_flight = None
        self.waited_seconds = 0.0
        self.reaches_other_source = False
        """True when the request has reached a reservation of another source, as admins may."""

    @property
    def caller(self) -> Caller:
        """The source that sends the request, and whether it acts for all sources."""
        return self.credential.caller

    @property
    def path(self) -> str:
        """The address of the request, without its query, as it was sent."""
        return path_of(self.scope)

    @property
    def request_id(self) -> str:
        """The id of the request: its own or a new one."""
        return id_of(self.scope)

    @property
    def address(self) -> str:
        """The address of the client, as far as trusted proxies tell it."""
        peer = self.scope["client"]
        forwarded_for = self.header_list(b"x-forwarded-for")
        return self.worker.proxies.client_of(peer[0] if peer else "", forwarded_for)

    @property
    def is_secure(self) -> bool:
        """True when the client uses TLS, to this server or to a trusted proxy in front of it."""
        if self.scope["scheme"] == "https":
            return True
        sent = self.header_list(b"x-forwarded-proto")
        if sent is None or sent.lower() != b"https":
            return False
        peer = self.scope["client"]
        return peer is not None and self.worker.proxies.trusts(peer[0])

    def reach(self, source: str) -> None:
        """Note that the request has reached a reservation of that source."""
        if source != self.caller.source:
            self.reaches_other_source = True

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value, the last one if it was sent twice; `name` in lower case."""
        value = None
        for sent, content in self.scope["headers"]:
            if sent == name:
                value = content
        return value

    def header_list(self, name: bytes) -> bytes | None:
        """Return the lines of a header, joined by commas; `name` in lower case."""
        values = [content for sent, content in self.scope["headers"] if sent == name]
        return b",".join(values) if values else None

    def segment(self, name: str) -> str:
        """Return a segment of the path, still percent-encoded."""
        return str(self.scope["path_params"][name])

    @property
    def reservation_id(self) -> UUID:
        """The id of the reservation in the path. Raises `NotFound` for any other text."""
        return identifier(self.segment("id"), "reservation")

    @property
    def refund_id(self) -> UUID:
        """The id of the refund in the path. Raises `NotFound` for any other text."""
        return identifier(self.segment("refund_id"), "refund")

    @property
    def key_id(self) -> UUID:
        """The id of the key in the path. Raises `NotFound` for any other text."""
        return identifier(self.segment("id"), "key")

    @property
    def sku(self) -> str:
        """The SKU in the path."""
        return self.stock_names["sku"]

    @property
    def stock_key(self) -> tuple[str, str]:
        """The SKU and the location in the path."""
        return self.stock_names["sku"], self.stock_names["location"]

    @property
    def source(self) -> str:
        """The source in the path. Raises `InvalidRequest`."""
        return name_at("source", self._decoded("source"))

    def seq(self, in_body: str | None) -> str:
        """Return the request's seq, from its body or from the header Idempotency-Key."""
        sent = self.header(b"idempotency-key")
        if sent is None:
            if in_body is None:
                raise InvalidRequest.at("seq", "is missing: send it, or an Idempotency-Key header")
            return in_body
        key = headers.idempotency_key(sent)
        if in_body is not None and in_body != key:
            raise InvalidRequest.at("Idempotency-Key", "differs from seq")
        return key

    def check_source(self, named: str | None) -> None:
        """Raise `Forbidden` when the request names another source than the caller's."""
        if named is not None and named != self.caller.source:
            raise Forbidden(
                f"source is not the key's own, {self.caller.source}: send that or none."
            )

    @property
    def expected_version(self) -> int | None:
        """The version that If-Match names; None when the header is absent."""
        sent = self.header_list(b"if-match")
        return None if sent is None else headers.version("If-Match", sent)

    async def submit(self, command: Command[R_co]) -> Outcome[R_co]:
        """Carry a command out and return its outcome once it is durable."""
        coalescer = self.worker.coalescer
        outcomes = await coalescer.submit([command], waited_seconds=self.waited_seconds)
        outcome = outcomes[0]
        if outcome.owner is not None:
            self.reach(outcome.owner)
        return outcome

    async def read(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Return the result of a query."""
        return await self.worker.database.read(work)

    def stock_name(self, name: str) -> str:
        """Return the SKU or the location in the path, decoded. Raises `InvalidRequest`."""
        return path_name_at(name, self._decoded(name))

    def _decoded(self, name: str) -> str:
        try:
            return unquote_to_bytes(self.segment(name).replace(UNDECODED, "%FF")).decode()
        except UnicodeDecodeError:
            raise InvalidRequest.at(name, "is not UTF-8") from None


def path_of(scope: Scope) -> str:
    """Return the address of a request, without its query, as it was sent."""
    return scope["raw_path"].decode("utf-8", "replace")


def id_of(scope: Any) -> str:
    """Return the id of a request, for log lines and problem documents."""
    request_id: bytes = scope["request_id"]
    return request_id.decode()


def identifier(text: str, kind: str) -> UUID:
    """Return an id from a path. Raises `NotFound` for a text that is not a UUID."""
    if UUID_FORM.fullmatch(text):
        return UUID(text)
    hint = " To find one by its seq, ask /v1/reservations?seq=…" if kind == "reservation" else ""
    raise NotFound(f"There is no such {kind}: the id of a {kind} is a UUID.{hint}")
