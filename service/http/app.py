"""The application: routes, error mapping and what they are built from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import structlog
from litestar import Litestar
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import Scope

from db.session import database as db
from db.strategies import open_strategy
from service.domain.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    ServiceError,
    Unavailable,
)
from service.engine.audits import Audits
from service.engine.background import BackgroundService, BackgroundServices
from service.engine.coalescer import Coalescer, CoalescerLimits
from service.engine.imports import Imports
from service.engine.ledger import Ledger
from service.engine.retry import RetryPolicy
from service.engine.sweeper import Sweeper
from service.http.answers import Answer, Header, problem_answer
from service.http.credentials import Keys
from service.http.limits.rate_limit import RateLimit
from service.http.nowhere import nothing_at
from service.http.requests import HttpRequest, note_refusal
from service.http.routes import operations, pages, reservations, stock
from service.http.worker_state import Services
from service.settings import Settings

log = structlog.get_logger()


NOWHERE = "/-"
"""A path that no route has."""
NO_METHOD = "NONE"
"""A method that no route has: the router refuses it and lists those that the address has."""
ONCE = (b"host", b"authorization", b"idempotency-key")
"""Headers of which a second line would leave open which one counts."""


class Application(Litestar):
    """Litestar, but HEAD is answered wherever GET is, and OPTIONS lists what 405 lists.

    Paths stay percent-encoded: a SKU may have a slash in its name.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http":
            refusal = _refuse_head(scope["headers"])
            if refusal is not None:
                await problem_answer(refusal, _path(scope))(scope, receive, send)
                return
            path = scope["raw_path"].decode("utf-8", "replace")
            is_odd = "//" in path or (path.endswith("/") and path != "/")
            scope["path"] = NOWHERE if is_odd else path  # Litestar would overlook empty segments
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, _without_body(send)
            elif scope["method"] == "OPTIONS":
                scope = {**scope, "method": NO_METHOD}
        await super().__call__(scope, receive, send)


def _refuse_head(headers: list[Header]) -> InvalidRequest | None:
    """The refusal of a head that lacks Host, or has two lines of what may be there once."""
    names = [name for name, _ in headers if name in ONCE]
    for name in ONCE:
        if names.count(name) > 1:
            return InvalidRequest.at(name.decode().title(), "is given twice")
    if b"host" not in names:
        return InvalidRequest.at("Host", "is missing")
    return None


def _without_body(send: Any) -> Any:
    """Send the head of an answer as it is, and nothing behind it."""

    async def send_head(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


def create_app(settings: Settings, *, sweeps: bool = True) -> Application:
    """Return the application that serves `settings.database_url`, whose schema is up to date.

    Without `sweeps`, overdue holds are only released on demand, as if the sweeper had died.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        services = build_services(settings)
        app.state.services = services
        background = BackgroundServices(background_services(services, sweeps=sweeps))
        background.start()
        try:
            yield
        finally:
            services.draining = True
            await background.stop()
            await services.coalescer.drain()
            await services.coalescer.ledger.strategy.close()
            await services.database.close()

    return Application(
        route_handlers=[*reservations.ROUTES, *stock.ROUTES, *operations.ROUTES, *pages.ROUTES],
        lifespan=[lifespan],
        exception_handlers=cast(
            "Any",
            {
                ServiceError: _refuse,
                db.DatabaseError: _refuse_database,
                HTTPException: _refuse_http,
                Exception: _fail,
            },
        ),
        openapi_config=None,
        logging_config=None,
    )


def build_services(settings: Settings) -> Services:
    """Build the parts of a worker; call it in the event loop that will use them."""
    if settings.database_url is None:
        raise ValueError("settings.database_url is not set")
    database = db.Database(settings.database_url, pool_size=settings.pool_size)
    strategy = open_strategy(
        settings.strategy,
        redis_url=settings.redis_url,
        zookeeper_hosts=settings.zookeeper_hosts,
    )
    rate_limit = RateLimit(settings.rate_limit)
    ledger = Ledger(database, strategy, retry_policy(settings))
    limits = CoalescerLimits(
        lanes=settings.lanes,
        queued_commands_max=settings.queue_max,
        drain_seconds_max=settings.drain_seconds,
    )
    coalescer = Coalescer(ledger, limits)
    return Services(
        settings=settings,
        database=database,
        keys=Keys(database, rate_limit),
        rate_limit=rate_limit,
        coalescer=coalescer,
        audits=Audits(database),
        imports=Imports(coalescer),
    )


def background_services(services: Services, *, sweeps: bool = True) -> list[BackgroundService]:
    """Return the list of all that a worker does besides answering requests."""
    listed: list[BackgroundService] = []
    if sweeps:
        listed.append(Sweeper(services.database, services.coalescer))
    return listed


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return how a worker with these settings runs lost races again."""
    return RetryPolicy(
        attempts_max=settings.retry_attempts,
        wait_first_seconds=settings.retry_wait_seconds,
        seconds_max=settings.retry_seconds,
        share_max=settings.retry_share,
        burst_max=settings.retry_burst,
    )


def _refuse(request: HttpRequest, error: ServiceError, *headers: Header) -> Answer:
    note_refusal(request, error)
    if pages.wants_page(request):
        return pages.refuse(request, error, *headers)
    return problem_answer(error, _path(request.scope), *headers)


def _refuse_database(request: HttpRequest, error: db.DatabaseError) -> Any:
    if isinstance(error, db.OutcomeUnknown):
        return _refuse(request, OutcomeUnknown("The connection to the database died at COMMIT."))
    if isinstance(error, db.Unavailable | db.Conflict):
        return _refuse(request, Unavailable(str(error) or "The database did not answer."))
    return _fail(request, error)


def _refuse_http(request: HttpRequest, error: HTTPException) -> Any:
    """Litestar's own refusals, in our words."""
    if isinstance(error, MethodNotAllowedException):
        methods = (error.headers or {}).get("allow", "").split(", ")
        methods += ["HEAD"] if "GET" in methods else []
        allow = (b"allow", ", ".join(sorted(methods)).encode())
        if request.scope["method"] == NO_METHOD:
            return Answer(204, [allow], b"")
        return _refuse(request, MethodNotAllowed("The resource does not know this method."), allow)
    if error.status_code == 404:
        return _refuse(request, NotFound(nothing_at(_path(request.scope))))
    if error.status_code < 500:
        return _refuse(request, InvalidRequest.at("request", error.detail))
    return _fail(request, error)


def _fail(request: HttpRequest, error: Exception) -> Answer:
    log.error("request_failed", path=_path(request.scope), exc_info=error)
    return _refuse(request, InternalError("The service failed."))


def _path(scope: Scope) -> str:
    return scope["raw_path"].decode("utf-8", "replace")
