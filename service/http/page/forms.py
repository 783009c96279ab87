"""Turns the fields of a form into values and commands, under the rules of the API."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError

from db.rows import Reservation
from service.domain.commands import RefundUnits, Reserve
from service.domain.errors import InvalidRequest, ServiceError, sentence
from service.domain.identifiers import reservation_id
from service.http.call import Call
from service.http.page.sessions import Session
from service.http.reading.body_kinds import merged_lines, read_bytes
from service.input.bodies import Body, RefundBody, ReserveBody
from service.input.parsing import refusal

FORM_MAX = 16 * 1024  # bytes
FIELDS_MAX = 20
LABELS = {
    "lines[0].sku": "SKU",
    "lines[0].location": "Location",
    "lines[0].quantity": "Quantity",
    "hold_seconds": "Hold, in seconds",
    "reservation": "Reservation",
    "reason": "Reason",
}

Form = Mapping[str, str]
"""The text of each field by its name, without the spaces around it, except for empty fields."""

B = TypeVar("B", bound=Body)


async def read_form(call: Call[Any]) -> Form:
    """Return the form that was sent. Raises `InvalidRequest` and the errors of `read_bytes`."""
    raw = await read_bytes(call, "application/x-www-form-urlencoded", FORM_MAX)
    try:
        fields = parse_qsl(raw.decode("ascii"), errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise InvalidRequest.at("form", "can't be read") from None
    return {name: text for name, value in fields if (text := value.strip())}


def reserve_of(session: Session, form: Form, seq: str) -> Reserve:
    """Return the reservation that a form asks for, under the seq of the form's token."""
    hold = {"hold_seconds": _number(form["hold_seconds"])} if "hold_seconds" in form else {}
    body = _validated(ReserveBody, {"lines": [_line(form)], **hold})
    source = session.caller.source
    return Reserve(
        source=source,
        seq=seq,
        id=None,
        lines=merged_lines(body.lines),
        hold_seconds=body.hold_seconds,
        metadata={},
        effective_id=reservation_id(source, seq),
    )


def refund_of(session: Session, form: Form, reservation: Reservation, seq: str) -> RefundUnits:
    """Return the refund that a form asks for: all units left, or a quantity of one line."""
    lines = [_line(_named_line(form, reservation))] if "quantity" in form else None
    body = _validated(RefundBody, {"lines": lines, "reason": form.get("reason")})
    return RefundUnits(
        caller=session.caller,
        id=reservation.id,
        seq=seq,
        lines=merged_lines(body.lines) if body.lines else None,
        reason=body.reason,
    )


def complaints(error: ServiceError) -> list[str]:
    """Return the mistakes in a form as sentences with the labels of their fields."""
    return [
        sentence(item, LABELS.get(item["path"], item["path"]))
        for item in error.fields.get("errors", ())
    ]


def _named_line(form: Form, reservation: Reservation) -> Form:
    """The form with the SKU and location of the reservation's only line, unless it names one."""
    if "sku" in form:
        return form
    if len(reservation.lines) > 1:
        raise InvalidRequest.at("lines[0].sku", "is missing: the reservation has several SKUs")
    sku, location = reservation.lines[0].key
    return {**form, "sku": sku, "location": location}


def _line(form: Form) -> dict[str, Any]:
    line: dict[str, Any] = {name: form[name] for name in ("sku", "location") if name in form}
    if "quantity" in form:
        line["quantity"] = _number(form["quantity"])
    return line


def _number(text: str) -> int | str:
    """The number in a field; any other text stays a text, and validation refuses it by name."""
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else text


def _validated(model: type[B], values: dict[str, Any]) -> B:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise refusal(error) from None
