"""What every route is: a request in, a complete response out."""

from collections.abc import Awaitable, Callable

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from service.http.requests import HttpRequest


def endpoint(
    answer: Callable[[HttpRequest], Awaitable[ASGIApp]],
) -> Callable[[], Awaitable[ASGIApp]]:
    """Return a route handler that has `answer` make the response.

    To Litestar it is a handler without parameters that returns an ASGI application: it validates
    nothing and serializes nothing, which the routes do themselves, and is spared the time for both
    (docs/decisions.md, 6).
    """

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)

    async def handler() -> ASGIApp:
        return respond

    handler.__module__, handler.__qualname__ = answer.__module__, answer.__qualname__
    handler.__name__, handler.__doc__ = answer.__name__, answer.__doc__
    return handler
