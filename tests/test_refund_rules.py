"""The rules of refunds: of a whole sale, of a part, and only once."""

from typing import Any

import pytest

from db.rows import Line, Refund
from db.vocabulary import State
from service.domain.commands import RefundUnits
from service.domain.planner import MICROSECOND, plan
from tests.commands import START
from tests.test_guards import US, of, refund
from tests.test_rules import held, only, reservation, snapshot, sold, stock

QUANTITY_OF_A = [{"sku": "A", "location": "main", "quantity": 1}]


def test_a_refund_of_other_content_is_a_mismatch():
    done = plan(snapshot(*sold()), [refund("r")])
    seen = snapshot(*sold())
    seen.answers = {Refund: {("us", "r"): only(done).value}}
    lines = (Line("A", "main", 1),)
    for asked, problem in [
        (
            RefundUnits(US, of("x"), "r", None, None),
            ("reservation_id", str(of("sale")), str(of("x"))),
        ),
        (RefundUnits(US, of("sale"), "r", lines, None), ("lines", None, QUANTITY_OF_A)),
        (RefundUnits(US, of("sale"), "r", None, "why"), ("reason", None, "why")),
    ]:
        fields = only(plan(seen, [asked])).fields
        assert (fields["field"], fields["stored"], fields["sent"]) == problem


def sold_two() -> list[Any]:
    """A sale of two units of A and three of B, of which one was refunded."""
    lines = (Line("A", "main", 2, confirmed=2), Line("B", "main", 3, confirmed=3, refunded=1))
    sale = reservation("sale", State.CONFIRMED, lines=lines, expires_at=None)
    return [stock("A"), stock("B"), sale]


def partly(seq: str, reason: str | None = None, **lines: int) -> RefundUnits:
    rows = tuple(Line(sku, "main", units) for sku, units in lines.items())
    return RefundUnits(US, of("sale"), seq, rows, reason)


def test_a_refund_of_a_part_leaves_the_rest_and_the_state():
    planned = plan(snapshot(*sold_two()), [partly("r", "torn", A=1), refund("rest")])
    part, rest = (outcome.value for outcome in planned.outcomes)
    assert (part.entire, part.reason, part.lines) == (False, "torn", (Line("A", "main", 1),))
    assert rest.lines == (Line("A", "main", 1), Line("B", "main", 2))
    assert [move[:6] for move in planned.writes.movements] == [
        ("A", "main", 1, "refund", 1, 0),
        ("A", "main", 2, "refund", 1, 0),
        ("B", "main", 1, "refund", 2, 0),
    ]
    assert planned.writes.movements[0].created_at == START
    (changed,) = planned.writes.reservations_changed
    assert (changed.state, changed.version) == (State.REFUNDED, 3)
    assert changed.updated_at == START + MICROSECOND


def test_after_a_refund_of_a_part_the_sale_stays_confirmed():
    planned = plan(snapshot(*sold_two()), [partly("r", A=1)])
    (changed,) = planned.writes.reservations_changed
    assert (changed.state, changed.updated_at) == (State.CONFIRMED, START)
    line = Line("A", "main", 2, confirmed=2, refunded=1)
    assert planned.writes.lines_changed == [(of("sale"), line)]


def test_refunding_more_than_is_left_reports_the_units_left():
    for asked in (partly("r", B=3), partly("r", C=1)):
        problem = only(plan(snapshot(*sold_two()), [asked])).fields["refundable"]
        assert problem == [
            {"sku": "A", "location": "main", "quantity": 2},
            {"sku": "B", "location": "main", "quantity": 2},
        ]


def test_a_refund_of_the_rest_has_no_line_for_units_that_were_refunded_before():
    asked = [partly("a", A=2), partly("again", A=1), refund("rest")]
    planned = plan(snapshot(*sold_two()), asked)
    _, again, rest = planned.outcomes
    assert again.fields["refundable"] == [{"sku": "B", "location": "main", "quantity": 2}]
    assert rest.value.lines == (Line("B", "main", 2),)
    assert [move.sku for move in planned.writes.movements] == ["A", "B"]


def test_units_are_not_refunded_to_a_row_that_was_deleted_after_the_sale():
    rows = [*sold_two()[1:], stock("A", deleted=True)]
    planned = plan(snapshot(*rows), [partly("r", A=1), partly("s", B=1)])
    unknown, given = planned.outcomes
    assert unknown.fields == {"unknown": [{"sku": "A", "location": "main"}]}
    assert given.effect == "created"


def test_a_refund_of_a_part_is_repeated_only_with_the_same_content():
    seen = snapshot(*sold_two())
    stored = only(plan(seen, [partly("r", "torn", A=1)])).value
    seen.answers = {Refund: {("us", "r"): stored}}
    assert only(plan(seen, [partly("r", "torn", A=1)])).replayed
    fields = only(plan(seen, [partly("r", "torn", B=1)])).fields
    assert (fields["stored"], fields["sent"][0]["sku"]) == (QUANTITY_OF_A, "B")
    fields = only(plan(seen, [refund("r")])).fields
    assert fields == {"field": "lines", "stored": QUANTITY_OF_A, "sent": None}
    fields = only(plan(seen, [partly("r", "lost", A=1)])).fields
    assert fields == {"field": "reason", "stored": "torn", "sent": "lost"}


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        (refund("r", "hold"), "The reservation is held, so refund is not allowed."),
        (refund("r", "other"), "There is no such reservation."),
        (partly("r", A=9), "The request refunds more units than the reservation has left."),
    ],
)
def test_a_refused_refund_explains_the_error_in_a_sentence(asked, detail):
    rows = [*held(), sold()[1]]
    assert str(only(plan(snapshot(*rows), [asked]))) == detail


def test_every_movement_of_a_refund_names_the_sale_and_its_new_version():
    movements = plan(snapshot(*sold_two()), [refund("r")]).writes.movements
    names = [(move.sku, move.reservation_id, move.reservation_version) for move in movements]
    assert names == [("A", of("sale"), 2), ("B", of("sale"), 2)]


def test_a_refund_needs_no_available_units_of_its_row():
    (change,) = plan(snapshot(*sold()), [refund("r")]).writes.stock_changed
    assert (change.available_delta, change.lowest, change.seen_version) == (2, 0, None)
