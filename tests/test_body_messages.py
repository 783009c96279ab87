"""Each error of a body has a message in plain English and a path."""

import json

import pytest

from service.domain.errors import InvalidRequest
from service.input.bodies import (
    AdjustBody,
    ConfirmBody,
    NothingBody,
    RefundBody,
    ReserveBody,
    StockBody,
)
from service.input.parsing import parse

GOOD = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode()


def refused(model, raw):
    """The errors of a body as {path: message}, and whether the list is complete."""
    with pytest.raises(InvalidRequest) as caught:
        parse(model, raw)
    fields = caught.value.fields
    errors = {error["path"]: error["message"] for error in fields["errors"]}
    return errors, not fields.get("truncated", False)


SPACE = "must not begin with a space"
NUMBER = "must be a whole number, without quotes, fraction or exponent"
OTHERS = "is not a known member; known: available, name, low_stock_at"
SAID = [
    (ReserveBody, "", {"body": "is not JSON: it is empty"}),
    (ReserveBody, " \n", {"body": "is not JSON: it is empty"}),
    (ReserveBody, '{"seq": "1"', {"body": "is not JSON: it is incomplete"}),
    (ReserveBody, '{"seq": "1",}', {"body": "is not JSON: trailing comma in object (byte 12)"}),
    (ReserveBody, "[]", {"body": "must be an object"}),
    (ReserveBody, "null", {"body": "must be an object"}),
    (ReserveBody, "{}", {"lines": "is missing"}),
    (ReserveBody, '{"lines": []}', {"lines": "must not be empty"}),
    (ReserveBody, '{"lines": {}}', {"lines": "must be a list"}),
    (ReserveBody, '{"lines": [1]}', {"lines[0]": "must be an object"}),
    (
        ReserveBody,
        '{"lines": [{"sku": "A", "qty": 1}]}',
        {
            "lines[0].qty": "is not a known member; did you mean quantity?",
            "lines[0].quantity": "is missing; qty is not a known member",
        },
    ),
    (
        ReserveBody,
        {**GOOD, "holdSeconds": 900},
        {"holdSeconds": "is not a known member; did you mean hold_seconds?"},
    ),
    (
        ReserveBody,
        {**GOOD, "lines": [{"sku": "A", "quantity": 1, "price": 1}]},
        {"lines[0].price": "is not a known member; known: sku, location, quantity"},
    ),
    (NothingBody, '{"lines": []}', {"lines": "is not a known member; there are no members"}),
    (ReserveBody, {**GOOD, "": 1}, None),
    (ReserveBody, {**GOOD, "seq": " 1"}, {"seq": SPACE}),
    (
        ReserveBody,
        {**GOOD, "seq": "1\u00a0"},
        {"seq": "must not end with the invisible U+00A0"},
    ),
    (
        ReserveBody,
        {**GOOD, "seq": "a\nb"},
        {"seq": "must not contain the control character U+000A"},
    ),
    (ReserveBody, {**GOOD, "seq": ""}, {"seq": "must not be empty"}),
    (ReserveBody, {**GOOD, "seq": 1}, {"seq": "must be text, in quotes"}),
    (ReserveBody, {**GOOD, "seq": "x" * 129}, {"seq": "has more than 128 characters"}),
    (ReserveBody, {**GOOD, "seq": "x" * 99_999}, {"seq": "has more than 128 characters"}),
    (
        ReserveBody,
        '{"lines": [{"sku": "..", "quantity": 1}]}',
        {"lines[0].sku": "must not be . or .., which can't be addressed in a path"},
    ),
    (ReserveBody, {**GOOD, "hold_seconds": 0}, {"hold_seconds": "must be at least 1"}),
    (ReserveBody, {**GOOD, "hold_seconds": 604801}, {"hold_seconds": "must be at most 604,800"}),
    *[
        (ReserveBody, {**GOOD, "hold_seconds": v}, {"hold_seconds": NUMBER})
        for v in ("1", 1.5, True)
    ],
    (ReserveBody, {**GOOD, "id": "x"}, None),
    (ReserveBody, {**GOOD, "metadata": {"a": 1}}, {"metadata.a": "must be text, in quotes"}),
    (ReserveBody, {**GOOD, "metadata": [1]}, {"metadata": "must be an object"}),
    (
        ReserveBody,
        {**GOOD, "metadata": {"x" * 65: ""}},
        {"metadata": "has a member whose name has more than 64 characters"},
    ),
    (
        ReserveBody,
        {**GOOD, "metadata": {f"{n}": "" for n in range(17)}},
        {"metadata": "has more than 16 members"},
    ),
    (ReserveBody, {**GOOD, "lines": GOOD["lines"] * 1001}, {"lines": "has more than 1,000 items"}),
    (
        ReserveBody,
        '{"seq": "1", "seq": "1", "lines": []}',
        {"seq": "appears twice", "lines": "must not be empty"},
    ),
    (AdjustBody, '{"delta": 1}', {"reason": "is missing"}),
    (
        AdjustBody,
        {"delta": 1, "reason": "\0"},
        {"reason": "must not contain the control character U+0000"},
    ),
    (StockBody, '{"available": -1}', {"available": "must be at least 0"}),
    (StockBody, '{"on_hand": 1}', {"on_hand": OTHERS, "available": "is missing"}),
    (
        ConfirmBody,
        '{"lines": [{"sku": "A", "quantity": %s}]}' % ("9" * 9999),
        {"lines[0].quantity": "must be at most 1,000,000"},
    ),
    (RefundBody, '{"lines": 1, "lines": 2}', {"lines": "must be a list"}),
]


@pytest.mark.parametrize(("model", "body", "said"), SAID)
def test_each_error_has_a_message_in_plain_english(model, body, said):
    errors, _ = refused(model, body.encode() if isinstance(body, str) else encoded(body))
    assert said is None or errors == said
    for message in errors.values():
        assert message[0].islower()
        assert not any(word in message for word in ("Input", "should", "valid", "pydantic"))


def test_the_detail_names_the_first_errors_in_sentences():
    with pytest.raises(InvalidRequest) as caught:
        parse(ReserveBody, b'{"lines": [{"sku": "A", "qty": 1}], "seq": 1, "hold_seconds": 0}')
    assert caught.value.detail == (
        "seq must be text, in quotes. hold_seconds must be at least 1."
        " lines[0].qty is not a known member; did you mean quantity? See errors for more."
    )


def test_a_long_name_is_shortened_in_the_path():
    errors, _ = refused(ReserveBody, encoded({**GOOD, "x" * 9_999: 1}))
    assert list(errors) == ["x" * 64 + "…"]


def test_every_error_of_the_models_has_a_message_of_this_service():
    for model in (ReserveBody, RefundBody, AdjustBody, StockBody, ConfirmBody):
        for value in (None, 1, -1, 1.5, True, "", "x", [], {}, [None], {"x": 1}, 10**40):
            body = dict.fromkeys(model.model_fields, value)
            try:
                parse(model, encoded(body))
            except InvalidRequest as error:
                for told in error.fields["errors"]:
                    assert not told["message"].startswith("is refused"), told
