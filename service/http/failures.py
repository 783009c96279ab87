"""One mapping of failures to errors, and two renderers: a problem document and a page."""

from collections.abc import Callable
from typing import Any

import structlog
from litestar import Request
from litestar.exceptions import HTTPException, MethodNotAllowedException

from db.session import database as db
from service.domain.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    ServiceError,
    Unavailable,
)
from service.http.call import Call
from service.http.nowhere import nothing_at
from service.http.page.rendering import error_page
from service.http.responses import Header, Response, problem_response
from service.input.headers import quality

log = structlog.get_logger()

API_ROOTS = (b"v1", b"health", b"metrics", b"schema", b"problems")
"""The first segments of the API's addresses. All others belong to the operator's page."""


def error_of(failure: Exception, path: str) -> ServiceError:
    """Return the error that reports a failure at an address to the client."""
    match failure:
        case ServiceError():
            return failure
        case db.CommitUnknown():
            return OutcomeUnknown("The connection to the database died at COMMIT.")
        case db.StoreUnavailable():
            return Unavailable(str(failure) or "The database did not answer.")
        case db.Conflict():
            return Unavailable("The database did not answer.")
        case MethodNotAllowedException():
            return MethodNotAllowed("The resource does not support this method.")
        case HTTPException(status_code=404):
            return NotFound(nothing_at(path))
        case HTTPException(status_code=status, detail=detail) if status < 500:
            return InvalidRequest.at("request", detail)
    return InternalError("The service failed.")


def show_failure(request: Request[Any, Any, Any], failure: Exception) -> Response:
    """Return the response to a failed request: a page if `wants_page`, else a problem document."""
    call: Call[Any] = Call(request.scope, request.receive)
    return _render(_page if wants_page(call) else _problem, call, failure)


def show_failure_on_page(request: Request[Any, Any, Any], failure: Exception) -> Response:
    """Return the response to a failed request of the page."""
    return _render(_page, Call(request.scope, request.receive), failure)


def show_problem(call: Call[Any], error: ServiceError, *headers: Header) -> Response:
    """Return an error as a problem document."""
    note_failure(call, error)
    return _problem(call, error, *headers)


def show_page(call: Call[Any], error: ServiceError, *headers: Header) -> Response:
    """Return an error as a page."""
    note_failure(call, error)
    return _page(call, error, *headers)


def wants_page(call: Call[Any]) -> bool:
    """True when a browser asks for an address outside the API, even an unknown one."""
    first = call.scope["raw_path"].lstrip(b"/").partition(b"/")[0]
    if first in API_ROOTS:
        return False
    accept = call.header_list(b"accept") or b"*/*"
    return quality(accept, "text/html") > quality(accept, "application/json")


def allowed_methods(failure: MethodNotAllowedException) -> Header:
    """Return the header that lists the methods of an address; HEAD is answered where GET is."""
    methods = (failure.headers or {}).get("allow", "").split(", ")
    methods += ["HEAD"] if "GET" in methods else []
    return b"allow", ", ".join(sorted(methods)).encode()


def note_failure(call: Call[Any], error: ServiceError, cause: Exception | None = None) -> None:
    """Log a failure of the service; the engine has logged the cause of one that it reports."""
    if isinstance(error, InternalError):
        path = ascii(call.path)[1:-1]  # a control character could rewrite a line on a terminal
        log.error("request_failed", path=path, request_id=call.request_id, exc_info=cause)


def _render(show: Callable[..., Response], call: Call[Any], failure: Exception) -> Response:
    error = error_of(failure, call.path)
    note_failure(call, error, failure)
    headers = [allowed_methods(failure)] if isinstance(failure, MethodNotAllowedException) else []
    return show(call, error, *headers)


def _problem(call: Call[Any], error: ServiceError, *headers: Header) -> Response:
    return problem_response(error, call.path, call.request_id, *headers)


def _page(call: Call[Any], error: ServiceError, *headers: Header) -> Response:
    may_sign_in = call.scope.get("method") == "GET"
    return error_page(error, call.request_id, *headers, may_sign_in=may_sign_in)
