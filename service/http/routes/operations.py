"""Health, metrics, audit, the OpenAPI document and the pages that explain errors."""

import os

from litestar import get
from litestar.types import ASGIApp
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from db.session.database import DatabaseError
from service.domain.errors import NotFound, Unavailable, all_errors
from service.http import openapi
from service.http.answers import JSON, Answer, json_answer
from service.http.operation import Success, documented
from service.http.requests import HttpRequest, caller_of, services_of
from service.http.routes.endpoint import endpoint
from service.http.schemas import AuditAnswer, StatusAnswer

HTML = (b"content-type", b"text/html; charset=utf-8")
LOCKED_DOWN = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")
PAGE = (HTML, LOCKED_DOWN)


@get(
    "/health/live",
    opt=documented("Live?", Success(200, "The process answers.", StatusAnswer)),
)
@endpoint
async def live(request: HttpRequest) -> ASGIApp:  # noqa: ARG001
    """Say that the process answers; nothing else is looked at."""
    return json_answer(200, {"status": "live"})


@get(
    "/health/ready",
    opt=documented(
        "Ready?",
        Success(200, "Requests can be served.", StatusAnswer),
        errors=(Unavailable,),
    ),
)
@endpoint
async def ready(request: HttpRequest) -> ASGIApp:
    """Say whether requests can be served: 503 while the database is away or the server drains."""
    services = services_of(request)
    if services.draining:
        raise Unavailable("The service is shutting down.")
    await services.database.ping()
    return json_answer(200, {"status": "ready"})


@get(
    "/metrics",
    opt=documented(
        "Metrics",
        Success(200, "In the text format of Prometheus.", media_type="text/plain"),
    ),
)
@endpoint
async def metrics(request: HttpRequest) -> ASGIApp:  # noqa: ARG001
    """Return the metrics of all workers together."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # the library has no types
    return Answer(200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], generate_latest(registry))


@get(
    "/v1/audit",
    opt=documented(
        "Audit",
        Success(200, "What was checked and what does not agree.", AuditAnswer),
        scope="read",
    ),
)
@endpoint
async def read_audit(request: HttpRequest) -> ASGIApp:
    """Check that rows, ledger and reservations tell the same story."""
    await caller_of(request, "read")
    try:
        found = await services_of(request).audits.run()
    except DatabaseError as error:
        raise Unavailable("The audit could not be finished; try `holdfast audit`.") from error
    return json_answer(
        200,
        {
            "balanced": not found.drift,
            "checked": {"stock": found.stock, "reservations": found.reservations},
            "drift": found.drift,
        },
    )


@get(
    "/schema/openapi.json",
    opt=documented("OpenAPI document", Success(200, "OpenAPI 3.1.")),
)
@endpoint
async def openapi_document(request: HttpRequest) -> ASGIApp:
    """Return the OpenAPI document."""
    described = openapi.description(request.app)
    return Answer(200, [JSON], described.json, gzipped=described.json_gzipped)


@get(
    "/schema",
    opt=documented("OpenAPI page", Success(200, "A page.", media_type="text/html")),
)
@endpoint
async def openapi_page(request: HttpRequest) -> ASGIApp:
    """Return the OpenAPI document as a page."""
    described = openapi.description(request.app)
    return Answer(200, [*PAGE], described.page, gzipped=described.page_gzipped)


@get(
    "/problems/{code:str}",
    opt=documented(
        "Problem page",
        Success(200, "What the error means and what to do.", media_type="text/html"),
        errors=(NotFound,),
    ),
)
@endpoint
async def problem_page(request: HttpRequest) -> ASGIApp:
    """Explain an error code."""
    code = str(request.scope["path_params"]["code"]).replace("-", "_")
    for error in all_errors():
        if error.code == code:
            return Answer(200, [*PAGE], openapi.problem_page(error).encode())
    raise NotFound("There is no such problem.")


ROUTES = [
    live,
    ready,
    metrics,
    read_audit,
    openapi_document,
    openapi_page,
    problem_page,
]
