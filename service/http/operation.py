"""Declares operations: one declaration reads, answers and documents the requests of each.

`operation` is the only way to declare one. The declaration authenticates the caller, reads the
parameters and the body, and turns the handler's result into a response. The OpenAPI document is
made from the same declaration.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, overload

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as AsgiScope

from db.vocabulary import Scope
from service.domain.commands import Done, Outcome
from service.domain.errors import Forbidden, ServiceError, Unauthenticated
from service.http import failures
from service.http.admission import admit, refusal_without_key
from service.http.call import Call
from service.http.reading.body_kinds import BodyKind
from service.http.reading.cursors import Page
from service.http.reading.parameters import Parameter, QueryParameter, read_query
from service.http.resources import Resource
from service.http.responses import (
    REPLAYED,
    Header,
    Response,
    etag,
    json_response,
    status_of,
)
from service.http.uses import REFUSALS, Logged, note_access
from service.input.headers import check_acceptable, matches
from service.settings import Settings

B = TypeVar("B")


class Found(NamedTuple):
    """The result of a handler that has read one resource."""

    row: Any


Result: TypeAlias = Outcome[Any] | Found | Page | Response
"""A handler's result. All but a `Response` are written as the operation declares its answers."""


@dataclass(frozen=True, slots=True)
class Success:
    """A good answer: its status, its meaning, the resource in its body, and its headers."""

    status: int
    description: str
    resource: Resource | None = None
    headers: tuple[str, ...] = ()
    is_list: bool = False
    media_type: str = "application/json"
    is_secret: bool = False
    """The body has a secret: it is never compressed, stored or logged."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A declared operation of the API."""

    method: str
    path: str
    """The path, with its parameters in braces as in OpenAPI."""
    id: str
    summary: str
    description: str
    answers: tuple[Success, ...]
    scope: Scope | None = None
    """The scope that a key needs; None for an operation that needs no key."""
    scope_if_set: tuple[str, Scope] | None = None
    """The name of a setting, and the scope that a key needs only if that is set."""
    logged: Logged | None = None
    """The uses of an admin key that are noted in the access log; None without a scope."""
    body: BodyKind[Any] | None = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[type[ServiceError], ...] = ()
    """The errors that are the operation's own."""
    waits_for_space: bool = False
    """The request waits for space in the queue before its body is read."""

    def under(self, settings: Settings) -> "Operation":
        """Return the operation as it is with these settings."""
        if self.scope_if_set is None or not getattr(settings, self.scope_if_set[0]):
            return self
        return replace(self, scope=self.scope_if_set[1])

    @property
    def query(self) -> tuple[QueryParameter, ...]:
        """The parameters of the query string."""
        return tuple(each for each in self.parameters if isinstance(each, QueryParameter))

    def answer(self, status: int) -> Success:
        """Return the good answer of a status. Raises `LookupError` when none is declared."""
        for each in self.answers:
            if each.status == status:
                return each
        raise LookupError(f"{self.id} declares no answer with status {status}")


@overload
def operation(
    method: str,
    path: str,
    summary: str,
    *answers: Success,
    scope: Scope | None = ...,
    scope_if_set: tuple[str, Scope] | None = ...,
    logged: Logged | None = ...,
    body: None = ...,
    parameters: tuple[Parameter, ...] = ...,
    errors: tuple[type[ServiceError], ...] = ...,
    waits_for_space: bool = ...,
) -> Callable[[Callable[[Call[None]], Awaitable[Result]]], HTTPRouteHandler]: ...


@overload
def operation(
    method: str,
    path: str,
    summary: str,
    *answers: Success,
    scope: Scope | None = ...,
    scope_if_set: tuple[str, Scope] | None = ...,
    logged: Logged | None = ...,
    body: BodyKind[B],
    parameters: tuple[Parameter, ...] = ...,
    errors: tuple[type[ServiceError], ...] = ...,
    waits_for_space: bool = ...,
) -> Callable[[Callable[[Call[B]], Awaitable[Result]]], HTTPRouteHandler]: ...


def operation(
    method: str, path: str, summary: str, *answers: Success, **declared: Any
) -> Callable[[Callable[[Call[Any]], Awaitable[Result]]], HTTPRouteHandler]:
    """Return a decorator that turns a handler into the route of an operation with its name.

    The handler's docstring is the operation's description. Raises `TypeError` if an operation with
    a scope does not declare its uses in the access log, or one without a scope does.
    """

    def declare(handler: Callable[[Call[Any]], Awaitable[Result]]) -> HTTPRouteHandler:
        name, description = handler.__name__, handler.__doc__ or ""
        declaration = Operation(method, path, name, summary, description, answers, **declared)
        if (declaration.scope is None) != (declaration.logged is None):
            raise TypeError(f"{name} must declare `scope` and `logged`, or neither")
        answer = _answering(declaration, handler)
        served = route(method, path, answer, failures.show_problem, declaration.logged)
        served.opt["operation"] = declaration
        return served

    return declare


def operations(app: Litestar) -> Iterator[Operation]:
    """Yield the operations that an application serves."""
    for each in app.routes:
        for handler in getattr(each, "route_handlers", ()):
            if "operation" in handler.opt:
                yield cast("Operation", handler.opt["operation"])


def route(
    method: str,
    path: str | list[str],
    answer: Callable[[Call[Any]], Awaitable[Response]],
    refuse: Callable[[Call[Any], ServiceError], Response],
    logged: Logged | None,
) -> HTTPRouteHandler:
    """Return a route whose requests `answer` answers, or `refuse` if that raises an error.

    `logged` tells which uses of an admin key are noted in the access log; refusals always are.

    Litestar sees a handler without parameters that returns an ASGI application, so it spends no
    time on validation and serialization. Both are done here (docs/decisions.md, 6).
    """
    notes_uses = logged not in (None, Logged.NO_USE)

    async def respond(scope: AsgiScope, receive: Receive, send: Send) -> None:
        call: Call[Any] = Call(scope, receive)
        try:
            response = await answer(call)
            status = response.status
        except ServiceError as error:
            response = refuse(call, error)
            status = error.status  # the page redirects a browser that is not signed in
        except Exception as failure:
            note_access(call, logged, failures.error_of(failure, call.path).status)
            raise
        finally:
            if call.source_in_flight is not None:
                call.worker.in_flight.end(call.source_in_flight)
        if notes_uses or status in REFUSALS:
            note_access(call, logged, status)
        await response(scope, receive, send)

    async def handler() -> ASGIApp:
        return respond

    handler.__module__, handler.__qualname__ = answer.__module__, answer.__qualname__
    handler.__name__, handler.__doc__ = answer.__name__, answer.__doc__
    paths = [path] if isinstance(path, str) else path
    typed = [each.replace("}", ":str}") for each in paths]
    # Litestar checks the status against the handler's type; the response has its own.
    return HTTPRouteHandler(typed, http_method=cast("Any", method), status_code=200)(handler)


def _answering(
    declared: Operation, handler: Callable[[Call[Any]], Awaitable[Result]]
) -> Callable[[Call[Any]], Awaitable[Response]]:
    """Return the function that answers a request: it authenticates, reads, handles and writes."""
    scope, query, body = declared.scope, declared.query, declared.body
    waits_for_space = declared.waits_for_space
    stock_names = [name for name in ("sku", "location") if f"{{{name}}}" in declared.path]

    async def answer(call: Call[Any]) -> Response:
        if scope is not None:
            await _authenticate(call, scope)
        elif declared.scope_if_set is not None:
            needed = declared.under(call.worker.settings).scope
            if needed is not None:
                await _authenticate(call, needed)
        if stock_names:
            call.stock_names = {name: call.stock_name(name) for name in stock_names}
        if query:
            call.query = read_query(call.scope["query_string"], query)
        if waits_for_space:
            call.waited_seconds = await call.worker.coalescer.wait_for_space()
        if body is not None:
            call.body = await body.read(call)
        return _response(declared, call, await handler(call))

    answer.__module__, answer.__qualname__ = handler.__module__, handler.__qualname__
    answer.__name__, answer.__doc__ = handler.__name__, handler.__doc__
    return answer


async def _authenticate(call: Call[Any], scope: Scope) -> None:
    """Find the caller and count the request, then check the scope and that JSON is acceptable.

    The key is checked first: a request without a valid key must cost little.
    """
    authorization, is_choosy = None, False
    for name, value in call.scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"accept" and value != b"*/*":
            is_choosy = True
    try:
        credential = call.credential = await call.worker.authentication.require(authorization)
    except Unauthenticated as error:
        raise refusal_without_key(call, error) from None
    await admit(call, credential.caller.source, credential.requests_per_second)
    if not credential.allows(scope):
        raise Forbidden(f"This needs a key with the scope {scope}.")
    if is_choosy:
        check_acceptable(call.header_list(b"accept") or b"")


def _response(declared: Operation, call: Call[Any], result: Result) -> Response:
    if isinstance(result, Done):
        return _done(declared.answer(status_of(result)), result)
    if isinstance(result, ServiceError):
        return failures.show_problem(call, result)
    if isinstance(result, Found):
        return _found(declared.answer(200), call, result.row)
    if isinstance(result, Page):
        return _page(declared.answer(200), result)
    return result


def _done(success: Success, done: Done[Any]) -> Response:
    """The resource that a command has made or changed, if there is one."""
    resource, row = success.resource, done.value
    if resource is None:
        return Response(success.status, [], b"")
    headers: list[Header] = []
    if "ETag" in success.headers and resource.version_of is not None:
        headers.append(etag(resource.version_of(row)))
    if "Location" in success.headers and resource.path_of is not None:
        headers.append((b"location", resource.path_of(row).encode()))
    if done.replayed:
        headers.append(REPLAYED)
    return json_response(success.status, resource.write(row), *headers, is_secret=success.is_secret)


def _found(success: Success, call: Call[Any], row: Any) -> Response:
    """The resource that was read, or 304 when the client has its version already."""
    resource = success.resource
    assert resource is not None  # noqa: S101 - declared with the operation
    if resource.version_of is None:
        return json_response(success.status, resource.write(row))
    tag = etag(resource.version_of(row))
    if_none_match = call.header_list(b"if-none-match")
    if if_none_match is not None and matches(if_none_match, tag[1]):
        return Response(304, [tag], b"")
    return json_response(success.status, resource.write(row), tag)


def _page(success: Success, page: Page) -> Response:
    resource = success.resource
    assert resource is not None  # noqa: S101 - declared with the operation
    items = [resource.write(row) for row in page.rows]
    return json_response(success.status, {"items": items, "next_cursor": page.next_cursor})
