"""Changes generated requests so that they keep the rules that schemas can't express."""

import re
import uuid
from typing import Any

import schemathesis

VERSION = re.compile(r'(W/)?"[1-9][0-9]{0,18}"')

CHOSEN = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

FUTURE = "2099-12-31T00:00:00Z"
"""Schemas can't require a moment in the future."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make a request that is valid by its schemas valid by the whole contract."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    case.body = without_fractions(case.body)
    if case.query:
        case.query.pop("cursor", None)  # a generated cursor belongs to no list
    headers = case.headers
    if isinstance(case.body, dict) and needs_seq(case):
        headers.pop("Idempotency-Key", None)  # it would have to be equal to seq
        if not CHOSEN.fullmatch(str(case.body.get("id"))):
            case.body = {name: value for name, value in case.body.items() if name != "id"}
        if case.body.get("seq") is None:
            case.body = {**case.body, "seq": uuid.uuid4().hex}
        if case.body.get("expires_at") is not None:
            case.body = {**case.body, "expires_at": FUTURE}
    keep_precondition(case.operation.method.upper(), headers)


def needs_seq(case: Any) -> bool:
    """True when the operation takes a seq, in the body or in the header Idempotency-Key."""
    parameters = case.operation.definition.raw.get("parameters", ())
    return any(parameter.get("name") == "Idempotency-Key" for parameter in parameters)


def keep_precondition(method: str, headers: Any) -> None:
    """Send one valid precondition; some generators ignore the patterns of headers."""
    if "If-Match" in headers:
        headers.pop("If-None-Match", None)
        if not VERSION.fullmatch(headers["If-Match"]):
            headers["If-Match"] = '"1"'
    elif method == "PUT" and "If-None-Match" in headers:
        headers["If-None-Match"] = "*"


def without_fractions(value: Any) -> Any:
    """Write whole numbers without a fraction: JSON Schema takes 1.0 for an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [without_fractions(item) for item in value]
    if isinstance(value, dict):
        return {name: without_fractions(item) for name, item in value.items()}
    return value
