"""Declares the routes of the page: one declaration admits the visitor, and tests walk over it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from litestar.handlers import HTTPRouteHandler

from db.vocabulary import Scope
from service.http.call import Call
from service.http.failures import show_page
from service.http.operation import route
from service.http.page.sessions import Session, check_same_site, session_of
from service.http.responses import Response
from service.http.uses import Logged


class Entry(Enum):
    """The requirements that a visitor of a route of the page must meet."""

    OPEN = "nothing"
    SESSION = "a session"
    RESULT = "a session with the scope read, or one with the scope reserve that made the result"
    RESERVE = "a session with the scope reserve"


@dataclass(frozen=True, slots=True)
class PageRoute:
    """A declared route of the page."""

    method: str
    paths: tuple[str, ...]
    entry: Entry
    logged: Logged
    """The uses of an admin key that are noted in the access log."""


OpenHandler: TypeAlias = Callable[[Call[Any]], Awaitable[Response]]
Handler: TypeAlias = Callable[[Call[Any], Session], Awaitable[Response]]


def open_page(method: str, *paths: str) -> Callable[[OpenHandler], HTTPRouteHandler]:
    """Return a decorator that makes a route of a handler; it needs no session."""
    return lambda handler: _serve(PageRoute(method, paths, Entry.OPEN, Logged.NO_USE), handler)


def page(
    method: str, *paths: str, entry: Entry, logged: Logged
) -> Callable[[Handler], HTTPRouteHandler]:
    """Return a decorator that makes a route of a handler, which gets the session.

    A handler of a `RESULT` looks at the row before it shows it (`lookups.check_may_look`).
    """

    def declare(handler: Handler) -> HTTPRouteHandler:
        async def answer(call: Call[Any]) -> Response:
            session = await session_of(call)
            if entry is Entry.RESERVE:
                session.require(Scope.RESERVE)
            return await handler(call, session)

        return _serve(PageRoute(method, paths, entry, logged), answer, named=handler)

    return declare


def _serve(
    declared: PageRoute, handler: OpenHandler, *, named: Callable[..., Any] | None = None
) -> HTTPRouteHandler:
    """The route of a handler. A form is refused before all else if it comes from another site."""
    named = named or handler

    async def answer(call: Call[Any]) -> Response:
        if declared.method == "POST":
            check_same_site(call)
        return await handler(call)

    answer.__module__, answer.__qualname__ = named.__module__, named.__qualname__
    answer.__name__, answer.__doc__ = named.__name__, named.__doc__
    served = route(declared.method, list(declared.paths), answer, show_page, declared.logged)
    served.opt["page"] = declared
    return served
