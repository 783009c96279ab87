"""Requests as clients of this interface make them, where their schemas allow others as well."""

import re
import uuid
from typing import Any

import schemathesis

VERSION = re.compile(r'(W/)?"[1-9][0-9]{0,18}"')

CHOSEN = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make what each of its schemas allows right by the contract as a whole."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    case.body = without_fractions(case.body)
    if case.query:
        case.query.pop("cursor", None)  # one that is made up is none
    headers = case.headers
    if isinstance(case.body, dict) and needs_seq(case):
        headers.pop("Idempotency-Key", None)  # it stands in for seq
        if not CHOSEN.fullmatch(str(case.body.get("id"))):
            case.body = {name: value for name, value in case.body.items() if name != "id"}
        if case.body.get("seq") is None:
            case.body = {**case.body, "seq": uuid.uuid4().hex}
    if "If-Match" in headers:
        headers.pop("If-None-Match", None)  # not both
        if not VERSION.fullmatch(headers["If-Match"]):
            headers["If-Match"] = '"1"'  # some generators overlook patterns in headers


def needs_seq(case: Any) -> bool:
    parameters = case.operation.definition.raw.get("parameters", ())
    return any(parameter.get("name") == "Idempotency-Key" for parameter in parameters)


def without_fractions(value: Any) -> Any:
    """Whole numbers are written without a fraction: to JSON Schema 1.0 is an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [without_fractions(item) for item in value]
    if isinstance(value, dict):
        return {name: without_fractions(item) for name, item in value.items()}
    return value
