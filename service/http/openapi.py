"""The OpenAPI 3.1 document, made from what the routes say of themselves, and the pages from it."""

import gzip
import json
import re
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from typing import Any

from litestar import Litestar
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

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
from service.http.body_kinds import BodyKind
from service.http.operation import Operation, Success, operations
from service.http.parameters import Parameter
from service.http.schemas import ProblemAnswer, encode
from service.input.bodies import NAME_MAX, NO_DOTS, TEXT

REF = "#/components/schemas/{model}"

HEADERS = {
    "ETag": "The resource's version, quoted.",
    "Location": "The resource's address.",
    "Idempotency-Replayed": "`true` when this is the answer of an earlier request.",
    "Retry-After": "Seconds to wait before sending the same request again.",
    "WWW-Authenticate": "Bearer",
}

EXAMPLE_FIELDS: dict[str, dict[str, Any]] = {
    "invalid_request": {
        "errors": [{"path": "lines[0].quantity", "message": "is missing"}],
    },
    "unknown_sku": {"unknown": [{"sku": "85123A", "location": "main"}]},
    "insufficient_stock": {
        "reservation_id": "8b1c7f9e-2f64-5a52-9d3b-6a4f6f1e7c11",
        "shortages": [{"sku": "85123A", "location": "main", "requested": 2, "available": 1}],
    },
    "illegal_transition": {"state": "cancelled", "allowed": []},
    "exceeds_refundable": {"refundable": [{"sku": "85123A", "location": "main", "quantity": 1}]},
    "exceeds_held": {"held": [{"sku": "85123A", "location": "main", "quantity": 2}]},
    "version_mismatch": {"current": 4},
    "idempotency_mismatch": {"field": "hold_seconds", "stored": 900, "sent": 600},
    "contention": {"attempts": 8},
}


@dataclass(frozen=True, slots=True)
class Description:
    """The document and its page, as they are sent."""

    json: bytes
    json_gzipped: bytes
    page: bytes
    page_gzipped: bytes


def description(app: Litestar) -> Description:
    """Return an application's description, made once."""
    found: Description | None = app.state.get("description")
    if found is None:
        described = document(app)
        as_json, as_page = encode(described), page(described).encode()
        found = Description(as_json, gzip.compress(as_json), as_page, gzip.compress(as_page))
        app.state.description = found
    return found


def document(app: Litestar) -> dict[str, Any]:
    """Return the OpenAPI document of an application whose routes are documented."""
    paths: dict[str, dict[str, Any]] = {}
    models: set[type[BaseModel]] = {ProblemAnswer}
    for each in operations(app):
        models |= {answer.resource.model for answer in each.answers if answer.resource is not None}
        if each.body is not None and each.body.model is not None:
            models.add(each.body.model)
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    _, schemas = models_json_schema(
        [(model, _mode(model)) for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=REF,
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast",
            "version": version("holdfast"),
            "description": "Inventory reservations: exactly once, never below zero.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _mode(model: type[BaseModel]) -> Any:
    return "serialization" if model.__name__.endswith("Answer") else "validation"


def _operation(declared: Operation) -> dict[str, Any]:
    path = declared.path
    described: dict[str, Any] = {
        "operationId": declared.id,
        "tags": [path.split("/")[2] if path.startswith("/v1/") else "operations"],
        "summary": declared.summary,
        "description": _description(declared),
        "parameters": [_path_parameter(name) for name in _names_in(path)]
        + [_parameter(parameter) for parameter in declared.parameters],
        "responses": _responses(declared),
    }
    for status in ("200", "201"):
        if LINKS.get((declared.method, path)) and status in described["responses"]:
            described["responses"][status]["links"] = LINKS[declared.method, path]
    if declared.scope is not None:
        described["security"] = [{"key": []}]
    if declared.body is not None:
        described["requestBody"] = _request_body(declared.body)
    return described


def _links(parameters: dict[str, str], *names: str) -> dict[str, Any]:
    """Links to operations whose parameters are in the answer."""
    found = {name: f"$response.body#/{member}" for name, member in parameters.items()}
    return {name: {"operationId": name, "parameters": found} for name in names}


OF_A_RESERVATION = (
    "get_reservation", "confirm_reservation", "cancel_reservation", "extend_reservation",
    "refund_reservation", "list_refunds", "list_reservation_movements",
)  # fmt: skip
OF_A_STOCK_ROW = ("get_stock", "adjust_stock", "delete_stock", "list_stock_movements")
LINKS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/reservations"): _links({"id": "id"}, *OF_A_RESERVATION),
    **{
        ("POST", f"/v1/reservations/{{id}}/{step}"): _links({"id": "id"}, *OF_A_RESERVATION)
        for step in ("confirm", "cancel", "extend")
    },
    ("POST", "/v1/reservations/{id}/refunds"): _links(
        {"id": "reservation_id", "refund_id": "id"}, "get_refund"
    ),
    ("PUT", "/v1/stock/{sku}/{location}"): _links(
        {"sku": "sku", "location": "location"}, *OF_A_STOCK_ROW
    ),
}
"""What can be done with what an operation has made, by its answer."""


def _description(declared: Operation) -> str:
    text = declared.description
    if declared.scope is not None:
        text += f"\n\nNeeds a key with the scope `{declared.scope}`."
    return text


def _names_in(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _path_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if name.endswith("id"):
        schema["format"] = "uuid"
    elif name in ("sku", "location"):
        schema |= {"minLength": 1, "maxLength": NAME_MAX, "pattern": TEXT, **NO_DOTS}
    return {"name": name, "in": "path", "required": True, "schema": schema}


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
    schema: dict[str, Any] = {"type": "string"}
    if body.model is not None:
        schema = {"$ref": REF.format(model=body.model.__name__)}
    content: dict[str, Any] = {"schema": schema}
    if body.example is not None:
        content["example"] = body.example
    return {"required": body.is_required, "content": {body.media_type: content}}


def _responses(declared: Operation) -> dict[str, Any]:
    responses = {str(answer.status): _success(answer) for answer in declared.answers}
    by_status: dict[int, list[type[ServiceError]]] = {}
    for error in _errors(declared):
        by_status.setdefault(error.status, []).append(error)
    for status, errors in sorted(by_status.items()):
        responses[str(status)] = _failure(errors)
    return responses


TRANSPORT_ERRORS = (MethodNotAllowed, RequestTimeout, UriTooLong, HeadersTooLarge, Overloaded)
"""What any request may be answered before it is looked at."""


def _errors(declared: Operation) -> list[type[ServiceError]]:
    """The operation's own errors and those that come with HTTP, a scope, a body or a change."""
    errors = [*declared.errors, InvalidRequest, *TRANSPORT_ERRORS]
    if declared.scope is not None:
        errors += [Unauthenticated, Forbidden, NotAcceptable, RateLimited]
        errors += [Unavailable, InternalError]
        if declared.method != "GET":
            errors += [Contention, OutcomeUnknown]
    if declared.body is not None:
        errors += [TooLarge, UnsupportedMediaType]
    return list(dict.fromkeys(errors))


def _success(answer: Success) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        response["headers"] = {name: _header(name) for name in answer.headers}
    if answer.status in (204, 304):
        return response
    schema: dict[str, Any] = {}
    if answer.resource is not None:
        schema = {"$ref": REF.format(model=answer.resource.model.__name__)}
    if answer.is_list:
        schema = {
            "type": "object",
            "required": ["items", "next_cursor"],
            "properties": {
                "items": {"type": "array", "items": schema},
                "next_cursor": {"type": ["string", "null"]},
            },
        }
    response["content"] = {answer.media_type: {"schema": schema}}
    return response


def _header(name: str) -> dict[str, Any]:
    return {"description": HEADERS[name], "schema": {"type": "string"}}


def _failure(errors: list[type[ServiceError]]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(f"`{error.code}`: {error.title()}." for error in errors),
        "content": {
            "application/problem+json": {
                "schema": {"$ref": REF.format(model="ProblemAnswer")},
                "examples": {error.code: {"value": _example(error)} for error in errors},
            }
        },
    }
    names = []
    if errors[0].status == 401:
        names.append("WWW-Authenticate")
    if any(error.retry_after_seconds for error in errors):
        names.append("Retry-After")
    if names:
        response["headers"] = {name: _header(name) for name in names}
    return response


def _example(error: type[ServiceError]) -> dict[str, Any]:
    return {
        "type": f"/problems/{error.code.replace('_', '-')}",
        "title": error.title(),
        "status": error.status,
        "detail": error.title() + ".",
        "instance": "/v1/reservations",
        "code": error.code,
        "retryable": error.retryable,
        "same_seq": error.same_seq,
        **EXAMPLE_FIELDS.get(error.code, {}),
    }


TAGS = ("reservations", "stock", "imports", "audit", "operations")
"""The sections of the page, the most wanted first."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
       color: #1c2330; background: #fff }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem } code { font-size: .9em }
details { border: 1px solid #d5dae3; border-radius: 6px; margin: .5rem 0; padding: .5rem 1rem }
summary { cursor: pointer } b { display: inline-block; min-width: 4.5rem }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #e6e9ef; padding: .3rem .6rem; text-align: left; vertical-align: top}
pre { background: #f4f6f9; padding: .75rem; overflow-x: auto }
"""


def page(described: dict[str, Any]) -> str:
    """Return the document as a page that needs no script and nothing from elsewhere."""
    sections: dict[str, list[str]] = {tag: [] for tag in TAGS}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            sections.setdefault(operation["tags"][0], []).append(
                _operation_html(path, method, operation)
            )
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(html)}" for tag, html in sections.items())
    info = described["info"]
    return _html(
        f"{info['title']} {info['version']}",
        f"<p>{escape(info['description'])} The same as data:"
        f' <a href="/schema/openapi.json">OpenAPI {described["openapi"]}</a>.</p>{body}',
    )


def _operation_html(path: str, method: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(item['name'])}</code></td><td>{item['in']}</td>"
        f"<td>{_prose(item.get('description', ''))}</td></tr>"
        for item in operation["parameters"]
    )
    responses = "".join(
        f"<tr><td>{status}</td><td>{', '.join(response.get('content', {}))}</td>"
        f"<td>{_prose(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    body = operation.get("requestBody", {}).get("content", {})
    sent = "".join(
        f"<p>Body: {media_type}"
        f" <code>{escape(content['schema'].get('$ref', 'text').rsplit('/')[-1])}</code></p>"
        for media_type, content in body.items()
    )
    description = _prose(operation["description"]).replace("\n\n", "<br>")
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code>"
        f": {escape(operation['summary'])}</summary><p>{description}</p>{sent}"
        + (f"<table>{parameters}</table>" if parameters else "")
        + f"<h4>Answers</h4><table>{responses}</table></details>"
    )


def problem_page(error: type[ServiceError]) -> str:
    """Return the page that explains an error code."""
    seq = "the same seq" if error.same_seq else "a new seq"
    again = "Yes: it may succeed as it is." if error.retryable else "No: not as it is."
    example = escape(json.dumps(_example(error), indent=2))
    return _html(
        error.title(),
        f"<p><code>{error.status} {error.code}</code></p><p>{_prose(error.advice)}</p>"
        f"<p>Send it again? {again} Then use {seq}.</p><pre>{example}</pre>",
    )


def _prose(text: str) -> str:
    """Escape a text; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _html(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1>{body}</html>"
    )
