"""Health, metrics, audit, the OpenAPI document and the pages that explain errors."""

import os
from dataclasses import replace
from typing import Any
from uuid import UUID

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from db.queries import records
from db.session.database import DatabaseError
from db.vocabulary import Scope
from service.domain.errors import NotFound, Unavailable, all_errors
from service.http import openapi
from service.http.call import Call
from service.http.document.rendering import POLICY, problem_page
from service.http.operation import Found, Success, operation
from service.http.problem_schemas import problem_example
from service.http.resources import AUDIT, STATUS
from service.http.responses import HTML, JSON, NO_REFERRER, Response
from service.http.uses import Logged

PAGE = (HTML, (b"content-security-policy", POLICY.encode()), NO_REFERRER)
ID = "reservation_id"


@operation("GET", "/health/live", "Liveness", Success(200, "The process answers.", STATUS))
async def get_liveness(call: Call[None]) -> Found:  # noqa: ARG001
    """Tell that the process answers; nothing else is checked."""
    return Found({"status": "live"})


@operation(
    "GET",
    "/health/ready",
    "Readiness",
    Success(200, "Requests can be served.", STATUS),
    errors=(Unavailable,),
)
async def get_readiness(call: Call[None]) -> Found:
    """Tell whether the service can serve requests.

    The answer is 503 while the database is unreachable or the service is shutting down.
    """
    if call.worker.draining:
        raise Unavailable("The service is shutting down.")
    await call.worker.database.ping()
    return Found({"status": "ready"})


@operation(
    "GET",
    "/metrics",
    "Metrics",
    Success(200, "In the text format of Prometheus.", media_type="text/plain"),
    scope_if_set=("metrics_key_required", Scope.READ),
)
async def get_metrics(call: Call[None]) -> Response:  # noqa: ARG001
    """Return the metrics of all workers together."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # the library has no types
    text = generate_latest(registry)
    return Response(200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], text)


@operation(
    "GET",
    "/v1/audit",
    "Audit",
    Success(200, "The number of checked rows, and the differences found.", AUDIT),
    scope=Scope.READ,
    logged=Logged.NO_USE,
)
async def audit(call: Call[None]) -> Found:
    """Check that stock rows, movements and reservations agree.

    `drift` names only those reservations that the caller may see.
    """
    try:
        found = await call.worker.audits.run()
        return Found(replace(found, drift=await _visible(call, found.drift)))
    except DatabaseError as error:
        raise Unavailable("The audit could not be finished; try `holdfast audit`.") from error


async def _visible(call: Call[None], drift: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings of an audit, without the ids of other sources' reservations."""
    source = call.caller.only_source
    ids = {UUID(each[ID]) for each in drift if ID in each}
    if source is None or not ids:
        return drift
    own = await call.read(lambda connection: records.own_reservations(connection, ids, source))
    hidden = {str(id_) for id_ in ids - own}
    return [
        {name: value for name, value in each.items() if name != ID or value not in hidden}
        for each in drift
    ]


@operation("GET", "/schema/openapi.json", "OpenAPI document", Success(200, "OpenAPI 3.1."))
async def get_openapi_document(call: Call[None]) -> Response:
    """Return the OpenAPI document."""
    described = openapi.description(call.scope["litestar_app"])
    return Response(200, [JSON], described.json, gzipped=described.json_gzipped)


@operation("GET", "/schema", "OpenAPI page", Success(200, "A page.", media_type="text/html"))
async def get_openapi_page(call: Call[None]) -> Response:
    """Return the OpenAPI document as a page."""
    described = openapi.description(call.scope["litestar_app"])
    return Response(200, [*PAGE], described.page, gzipped=described.page_gzipped)


@operation(
    "GET",
    "/problems/{code}",
    "Problem page",
    Success(200, "The meaning of the error and the remedy.", media_type="text/html"),
    errors=(NotFound,),
)
async def get_problem_page(call: Call[None]) -> Response:
    """Explain an error code."""
    code = call.segment("code").replace("-", "_")
    for error in all_errors():
        if error.code == code:
            return Response(200, [*PAGE], problem_page(error, problem_example(error)).encode())
    raise NotFound("There is no such problem.")


ROUTES = [
    get_liveness,
    get_readiness,
    get_metrics,
    audit,
    get_openapi_document,
    get_openapi_page,
    get_problem_page,
]
