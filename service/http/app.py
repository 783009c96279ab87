"""The application: its routes, its exception handlers, and the parts of a worker."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import structlog
from litestar import Litestar, Request
from litestar.exceptions import HTTPException, MethodNotAllowedException

from db.session import database as db
from db.strategies import open_strategy
from service.domain.errors import InternalError, InvalidRequest, ServiceError
from service.engine.access_log import AccessLog
from service.engine.audits import SharedAudits
from service.engine.background import BackgroundService, BackgroundServices
from service.engine.coalescer import Coalescer, CoalescerLimits
from service.engine.imports import Imports
from service.engine.ledger import Ledger
from service.engine.retry import RetryPolicy
from service.engine.source_limits import SourceLimits
from service.engine.sweeper import Sweeper
from service.http.access.authentication import Authentication
from service.http.call import id_of, path_of
from service.http.failures import allowed_methods, show_failure
from service.http.limits.in_flight import InFlight
from service.http.limits.keyless import KeylessRequests
from service.http.limits.rate_limit import RateLimit
from service.http.limits.shared_rates import SharedRates
from service.http.request_id import REQUEST_ID, new_request_id, request_id_of
from service.http.responses import Response, problem_response
from service.http.routes import (
    access_log,
    keys,
    operations,
    pages,
    refunds,
    reservations,
    sources,
    stock,
)
from service.http.worker_state import WorkerState
from service.input.hosts import AllowedHosts
from service.input.proxies import TrustedProxies
from service.settings import Settings

log = structlog.get_logger()

NOWHERE = "/-"
"""A path that no route has."""
NO_METHOD = "NONE"
"""A method that no route has: the router refuses it and lists the methods of the address."""
ONCE = (b"host", b"authorization", b"idempotency-key")
"""Headers that a request has at most once: a second line would make it ambiguous."""
READ = frozenset((*ONCE, REQUEST_ID))


class Application(Litestar):
    """Litestar, but HEAD is answered wherever GET is, and OPTIONS lists the methods that 405 lists.

    Paths stay percent-encoded: a SKU may have a slash in its name.
    """

    settings: Settings
    sweeps: bool
    hosts: AllowedHosts | None = None
    """The host names that requests may name; None allows any name."""
    worker: WorkerState | None = None
    """The parts of the worker while it serves: an attribute, since Litestar's state is slow."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http":
            scope.setdefault("began_at", time.perf_counter())
            refusal = _read_head(scope, self.hosts)
            if refusal is not None:
                await _refuse(scope, receive, send, refusal)
                return
            path = scope["raw_path"].decode("utf-8", "replace")
            is_odd = "//" in path or (path.endswith("/") and path != "/")
            scope["path"] = NOWHERE if is_odd else path  # Litestar ignores empty segments
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, _without_body(send)
            elif scope["method"] == "OPTIONS":
                scope = {**scope, "method": NO_METHOD}
        try:
            await super().__call__(scope, receive, send)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("request_failed", path=path_of(scope), request_id=id_of(scope))
            await _refuse(scope, receive, send, InternalError("The service failed."))


def _read_head(scope: Any, hosts: AllowedHosts | None) -> InvalidRequest | None:
    """Note the id of a request.

    The error is for a missing or foreign Host, or for two lines of a header in `ONCE`.
    """
    headers = scope["headers"]
    names = [name for name, _ in headers if name in READ]
    scope["request_id"] = request_id_of(headers) if REQUEST_ID in names else new_request_id()
    if len(set(names)) < len(names):
        for name in ONCE:
            if names.count(name) > 1:
                return InvalidRequest.at(name.decode().title(), "is given twice")
    if b"host" not in names:
        return InvalidRequest.at("Host", "is missing")
    if hosts is not None and not hosts.allows(dict(headers)[b"host"]):
        return InvalidRequest.at("Host", "does not name this service")
    return None


async def _refuse(scope: Any, receive: Any, send: Any, error: ServiceError) -> None:
    response = problem_response(error, path_of(scope), id_of(scope))
    await response(scope, receive, send)


def _without_body(send: Any) -> Any:
    """Send the head of a response as it is, and no body."""

    async def send_head(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


def create_app(settings: Settings, *, sweeps: bool = True) -> Application:
    """Return the application that serves `settings.database_url`, whose schema is up to date.

    Without `sweeps`, overdue holds are only released on demand, as if the sweeper had died.
    """
    app = Application(
        route_handlers=[
            *reservations.ROUTES,
            *refunds.ROUTES,
            *stock.ROUTES,
            *sources.ROUTES,
            *access_log.ROUTES,
            *keys.ROUTES,
            *operations.ROUTES,
            *pages.ROUTES,
        ],
        lifespan=[_serve],
        exception_handlers=cast(
            "Any",
            {
                MethodNotAllowedException: _refuse_method,
                HTTPException: show_failure,
                Exception: show_failure,
            },
        ),
        openapi_config=None,
        logging_config=None,
    )
    app.settings, app.sweeps = settings, sweeps
    return app


@asynccontextmanager
async def _serve(litestar: Litestar) -> AsyncIterator[None]:
    """Run a worker with the application's settings; they may change between two runs."""
    app = cast("Application", litestar)
    app.worker = worker = build_worker(app.settings)
    app.hosts = AllowedHosts(app.settings.allowed_hosts) or None
    background = BackgroundServices(background_services(worker, sweeps=app.sweeps))
    background.start()
    try:
        yield
    finally:
        worker.draining = True
        await background.stop()
        await worker.coalescer.drain()
        await worker.access_log.write_all()
        await worker.coalescer.ledger.strategy.close()
        await worker.rate_limit.close()
        await worker.database.close()


def build_worker(settings: Settings) -> WorkerState:
    """Build the parts of a worker; call it in the event loop that will use them."""
    if settings.database_url is None:
        raise ValueError("settings.database_url is not set")
    database = db.Database(settings.database_url, pool_size=settings.pool_size)
    strategy = open_strategy(
        settings.strategy,
        redis_url=settings.redis_url,
        zookeeper_hosts=settings.zookeeper_hosts,
    )
    ledger = Ledger(database, strategy, retry_policy(settings))
    limits = CoalescerLimits(
        lanes=settings.lanes,
        queued_commands_max=settings.queue_max,
        drain_seconds_max=settings.drain_seconds,
    )
    coalescer = Coalescer(ledger, limits)
    return WorkerState(
        settings=settings,
        database=database,
        authentication=Authentication(database, settings.issuer()),
        rate_limit=RateLimit(
            settings.rate_limit,
            settings.workers,
            None if settings.redis_url is None else SharedRates(settings.redis_url),
        ),
        in_flight=InFlight(settings.inflight_max),
        keyless=KeylessRequests(settings.workers),
        coalescer=coalescer,
        audits=SharedAudits(database),
        imports=Imports(coalescer),
        source_limits=SourceLimits(database),
        access_log=AccessLog(database, workers=settings.workers),
        proxies=TrustedProxies(settings.trusted_proxies),
    )


def background_services(worker: WorkerState, *, sweeps: bool = True) -> list[BackgroundService]:
    """Return the services that a worker runs in the background."""
    listed: list[BackgroundService] = [
        worker.access_log,
        worker.authentication.keys.last_uses,
    ]
    if sweeps:
        listed.append(Sweeper(worker.database, worker.coalescer))
    listed.append(worker.source_limits)
    if worker.authentication.tokens is not None:
        listed.append(worker.authentication.tokens.keys)
    return listed


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return the policy by which a worker with these settings retries lost races."""
    return RetryPolicy(
        attempts_max=settings.retry_attempts,
        wait_first_seconds=settings.retry_wait_seconds,
        seconds_max=settings.retry_seconds,
        share_max=settings.retry_share,
        burst_max=settings.retry_burst,
    )


def _refuse_method(request: Request[Any, Any, Any], failure: MethodNotAllowedException) -> Response:
    """The response to a method that an address does not have, or to OPTIONS."""
    if request.scope["method"] == NO_METHOD:
        return Response(204, [allowed_methods(failure)], b"")
    return show_failure(request, failure)
