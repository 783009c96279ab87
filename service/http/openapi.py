"""The OpenAPI 3.1 document, made from the declarations of the operations."""

import gzip
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from litestar import Litestar

from service.domain.errors import (
    Contention,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    OutcomeUnknown,
    Overloaded,
    RateLimited,
    RequestTimeout,
    ServiceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    UriTooLong,
)
from service.http.document.components import component_schemas, page_ref, problem_of, ref
from service.http.document.examples import answer_example
from service.http.document.links import links_of
from service.http.document.rendering import api_page
from service.http.operation import Operation, Success, operations
from service.http.problem_schemas import problem_example
from service.http.reading.body_kinds import JSON, BodyKind
from service.http.reading.parameters import Parameter
from service.http.schemas import encode
from service.input.bodies import NAME_MAX, NO_DOTS, TEXT
from service.settings import Settings

INFO = {
    "title": "Holdfast",
    "version": version("holdfast"),
    "summary": "Inventory reservations: each request exactly once, stock never below zero.",
    "description": (
        "Reserve units of stock, confirm, cancel or extend the hold, and refund the sale. A request"
        " that is repeated with the same `seq` has one effect and gets the same answer. Errors are"
        " problem documents (RFC 9457): decide by `code`, `retryable` and `same_seq`."
    ),
    "contact": {"name": "The operator of this service"},
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
SERVERS = [{"url": "/", "description": "The service that this document comes from."}]
TAGS = {
    "reservations": "Reserve units, decide about holds, give units of sales back.",
    "stock": "Set, correct and read the numbers of units.",
    "imports": "Create stock rows from a file.",
    "sources": "Limit the holds and the requests of a source.",
    "keys": "Create, rotate and revoke the keys that callers send.",
    "audit": "Check that the books agree.",
    "access-log": "Uses of admin keys, and refused requests.",
    "service": "The process itself, its interface and its errors. No key is needed.",
}
"""The groups of operations, in the order of the page."""

METHODS = ("POST", "GET", "PUT", "DELETE")
"""The order of the operations of a path."""

KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key made by `holdfast key create`, or a JSON Web Token if the service accepts"
    " them. The operation names the scope it needs.",
}

HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of the request: its own if that is usable, otherwise a new one.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~:/@+=-]{1,128}$"},
    },
    "ETag": {
        "description": "The version of the resource, in quotes.",
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "The address of the resource.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotency-Replayed": {
        "description": "`true` if this is the answer of an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "The seconds to wait before the same request is sent again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit-Policy": {
        "description": "The rate limit of the source: `q` requests in `w` seconds. Absent without"
        " a limit.",
        "schema": {"type": "string"},
        "example": '"default";q=100;w=1',
    },
    "RateLimit": {
        "description": "The requests that the source may still send at once (`r`), and the seconds"
        " after which it may send more (`t`).",
        "schema": {"type": "string"},
        "example": '"default";r=57;t=1',
    },
    "WWW-Authenticate": {
        "description": "The way to authenticate.",
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
}

PATH_PARAMETERS: dict[str, dict[str, Any]] = {  # some only of the operations with a tag
    "id": {
        "description": "The id of the reservation.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "keys.id": {
        "description": "The id of the key.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "refund_id": {
        "description": "The id of the refund.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "sku": {
        "description": "The SKU, percent-encoded.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": NAME_MAX,
            "pattern": TEXT,
            **NO_DOTS,
        },
    },
    "location": {
        "description": "The location, percent-encoded.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": NAME_MAX,
            "pattern": TEXT,
            **NO_DOTS,
        },
    },
    "source": {
        "description": "The source, percent-encoded.",
        "schema": {"type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": TEXT},
    },
    "code": {
        "description": "The code of the error, with dashes in place of its underscores.",
        "schema": {"type": "string"},
        "example": "insufficient-stock",
    },
}


@dataclass(frozen=True, slots=True)
class Description:
    """The document and its page, as they are sent."""

    settings: Settings
    """The settings of the service that they describe."""
    json: bytes
    json_gzipped: bytes
    page: bytes
    page_gzipped: bytes


def description(app: Litestar) -> Description:
    """Return the description of an application, which is made once."""
    found: Description | None = app.state.get("description")
    settings = cast("Any", app).settings
    if found is None or found.settings is not settings:
        described = document(app)
        as_json, as_page = encode(described), api_page(described).encode()
        found = Description(
            settings, as_json, gzip.compress(as_json), as_page, gzip.compress(as_page)
        )
        app.state.description = found
    return found


def document(app: Litestar) -> dict[str, Any]:
    """Return the OpenAPI document of an application."""
    settings = cast("Any", app).settings
    found = (each.under(settings) for each in operations(app))
    declared = sorted(found, key=lambda each: (each.path, METHODS.index(each.method)))
    paths: dict[str, dict[str, Any]] = {}
    for each in declared:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    answers = [answer for each in declared for answer in each.answers if answer.resource]
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": SERVERS,
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": component_schemas(
                bodies=[each.body.model for each in declared if each.body and each.body.model],
                answers=[answer.resource.model for answer in answers if answer.resource],
                listed=[each.resource.model for each in answers if each.resource and each.is_list],
            ),
            "headers": {"X-Request-Id": HEADERS["X-Request-Id"]},
            "securitySchemes": {"key": KEY},
        },
    }


def _operation(declared: Operation) -> dict[str, Any]:
    path = declared.path
    tag = path.split("/")[2] if path.startswith("/v1/") else "service"
    described: dict[str, Any] = {
        "operationId": declared.id,
        "tags": [tag],
        "summary": declared.summary,
        "description": _description(declared),
        "security": [{"key": [declared.scope]}] if declared.scope is not None else [],
        "parameters": [_path_parameter(tag, name) for name in _names_in(path)]
        + [_parameter(parameter) for parameter in declared.parameters],
        "responses": _responses(declared),
    }
    if declared.body is not None:
        described["requestBody"] = _request_body(declared.body)
    return described


def _description(declared: Operation) -> str:
    text = declared.description
    if declared.scope is not None:
        text += f"\n\nNeeds a key with the scope `{declared.scope}`."
    return text


def _names_in(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _path_parameter(tag: str, name: str) -> dict[str, Any]:
    parameter = PATH_PARAMETERS.get(f"{tag}.{name}") or PATH_PARAMETERS[name]
    return {"name": name, "in": "path", "required": True, **parameter}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.found_in,
        "required": parameter.required,
        "description": parameter.description,
        "schema": parameter.schema,
    }
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _request_body(body: BodyKind[Any]) -> dict[str, Any]:
    if body.model is None:
        # With this format, generated clients send the bytes of a file unchanged.
        content = {"schema": {"type": "string", "format": "binary"}, "example": body.example}
    else:
        content = {"schema": ref(body.model), "example": body.model.example}
    return {"required": body.is_required, "content": {body.media_type: content}}


def _responses(declared: Operation) -> dict[str, Any]:
    responses = {str(answer.status): _success(declared, answer) for answer in declared.answers}
    by_status: dict[int, list[type[ServiceError]]] = {}
    for error in _errors(declared):
        by_status.setdefault(error.status, []).append(error)
    for status, errors in sorted(by_status.items()):
        responses[str(status)] = _failure(errors)
    if declared.scope is not None:
        headers = {name: HEADERS[name] for name in RATE_HEADERS}
        for code in responses.keys() - BEFORE_AUTHENTICATION:
            responses[code]["headers"] = responses[code].get("headers", {}) | headers
    return responses


BEFORE_AUTHENTICATION = frozenset(("401", "405", "408", "414", "431"))
"""The statuses of errors that are found before the source is known."""


RATE_HEADERS = ("RateLimit-Policy", "RateLimit")
"""The headers of each answer to a source with a rate limit, from its authentication on."""

TRANSPORT_ERRORS = (MethodNotAllowed, RequestTimeout, UriTooLong, HeadersTooLarge, Overloaded)
"""The errors that any request may get before its operation is known."""


def _errors(declared: Operation) -> list[type[ServiceError]]:
    """The operation's own errors and those of all operations with a scope, a body or a change."""
    errors = [*declared.errors, InvalidRequest, *TRANSPORT_ERRORS]
    if declared.scope is not None:
        errors += [Unauthenticated, Forbidden, NotAcceptable, RateLimited]
        errors += [Unavailable, InternalError]
        if declared.method != "GET":
            errors += [Contention, OutcomeUnknown]
    if declared.body is not None:
        errors += [TooLarge, UnsupportedMediaType]
    return list(dict.fromkeys(errors))


def _success(declared: Operation, answer: Success) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": answer.description,
        "headers": _headers(*answer.headers),
    }
    if answer.status in (204, 304):
        return response
    schema: dict[str, Any] = {"type": "string"}
    if answer.resource is not None:
        model = answer.resource.model
        schema = page_ref(model) if answer.is_list else ref(model)
    elif answer.media_type == JSON:
        schema = {"type": "object"}
    content = {"schema": schema, "example": answer_example(declared, answer)}
    response["content"] = {answer.media_type: content}
    if links := links_of(declared.id):
        response["links"] = links
    return response


def _failure(errors: list[type[ServiceError]]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(f"`{error.code}`: {error.title()}." for error in errors),
        "content": {
            "application/problem+json": {
                "schema": problem_of(errors),
                "examples": {error.code: {"value": problem_example(error)} for error in errors},
            }
        },
    }
    names: list[str] = []
    if errors[0].status == 401:
        names.append("WWW-Authenticate")
    if any(error.retry_after_seconds for error in errors):
        names.append("Retry-After")
    response["headers"] = _headers(*names)
    return response


def _headers(*names: str) -> dict[str, Any]:
    """The headers of an answer, of which each has the id of the request."""
    request_id = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    return request_id | {name: HEADERS[name] for name in names}
