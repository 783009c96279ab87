"""The details of the rules that the answers of tests/model.py leave out, without a database."""

from datetime import timedelta
from typing import Any

import pytest

from db.rows import Line, Reservation, Snapshot, Stock, StockKey
from db.vocabulary import MovementKind, State
from service.domain.books import Books
from service.domain.commands import Caller, Cancel, Confirm, Expire, Extend
from service.domain.identifiers import adjustment_id, refund_id
from service.domain.planner import Plan, plan
from tests.commands import START
from tests.test_guards import US, adjust, of, put, refund, reserve

MINUTE = timedelta(minutes=1)


def stock(sku: str = "A", /, available: int = 5, **more: Any) -> Stock:
    row = Stock(sku, "main", "a thing", available, 0, 3, 4, START - MINUTE)
    return row._replace(**more)


def reservation(seq: str, state: str, /, **more: Any) -> Reservation:
    row = Reservation(
        of(seq), "us", seq, state, 1, 60, START + MINUTE, {}, None, START, START,
        (Line("A", "main", 2),),
    )  # fmt: skip
    return row._replace(**more)


def snapshot(*rows: Stock | Reservation) -> Snapshot:
    shelf: dict[StockKey, Stock] = {row.key: row for row in rows if isinstance(row, Stock)}
    return Snapshot(
        now=START,
        stock=shelf,
        reservations={row.id: row for row in rows if isinstance(row, Reservation)},
    )


def held(seq: str = "hold", **more: Any) -> list[Any]:
    return [stock(held=2), reservation(seq, State.HELD, **more)]


def sold() -> list[Any]:
    line = Line("A", "main", 2, confirmed=2)
    return [stock(), reservation("sale", State.CONFIRMED, lines=(line,), expires_at=None)]


def only(planned: Plan) -> Any:
    (outcome,) = planned.outcomes
    return outcome


def test_confirming_more_than_is_held_reports_the_held_units():
    asked = Confirm(US, of("hold"), (Line("A", "main", 3),))
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"held": [{"sku": "A", "location": "main", "quantity": 2}]}


@pytest.mark.parametrize(
    "step", [Confirm(US, of("hold"), None), Cancel(US, of("hold")), Extend(US, of("hold"), 90)]
)
def test_a_step_of_a_client_must_be_written_before_the_deadline_of_the_hold(step):
    assert plan(snapshot(*held()), [step]).writes.apply_before == START + MINUTE


def test_the_earliest_of_many_deadlines_applies():
    early = reservation("early", State.HELD, expires_at=START + MINUTE / 2)
    rows = [stock(held=6), early, *held()[1:], reservation("last", State.HELD)]
    steps = [Cancel(US, of(seq)) for seq in ("hold", "early", "last")]
    assert plan(snapshot(*rows), steps).writes.apply_before == START + MINUTE / 2


def test_an_expiry_a_refund_and_an_unchanged_hold_set_no_deadline_for_the_write():
    overdue = held(expires_at=START)
    assert plan(snapshot(*overdue), [Expire(of("hold"))]).writes.apply_before is None
    assert plan(snapshot(*sold()), [refund("r")]).writes.apply_before is None
    assert plan(snapshot(*held()), [Expire(of("hold"))]).outcomes[0].effect == "unchanged"


def test_writes_have_the_order_in_which_rows_are_locked():
    rows = [stock(sku) for sku in "CAB"]
    asked = [reserve("1", C=1), reserve("2", A=1), reserve("3", B=1), put("0", 1)]
    writes = plan(snapshot(*rows), asked).writes
    assert [change.sku for change in writes.stock_changed] == ["A", "B", "C"]
    ids = [row.id for row in writes.reservations_created]
    assert ids == sorted(ids)


def test_a_plan_that_pins_rows_guards_each_change_by_the_version():
    asked = [reserve("1", A=1), adjust("1", -9, "B")]
    writes = plan(snapshot(stock("A"), stock("B")), asked, pins_rows=True).writes
    assert [change.seen_version for change in writes.stock_changed] == [4]
    assert writes.stock_pinned == [("B", "main", 4)]
    assert not plan(snapshot(stock("A")), asked[:1]).writes.stock_changed[0].seen_version


def test_a_row_of_a_refused_request_is_pinned_only_if_the_batch_changes_a_row():
    refused = [reserve("1", A=9, B=1)]
    assert plan(snapshot(stock("A"), stock("B")), refused).writes.stock_pinned == []
    both = [*refused, reserve("2", B=1)]
    writes = plan(snapshot(stock("A"), stock("B")), both).writes
    assert writes.stock_pinned == [("A", "main", 4)]
    assert [change.seen_version for change in writes.stock_changed] == [4]


def test_the_guard_of_a_row_covers_its_lowest_point_within_the_batch():
    asked = [reserve("1", A=1), reserve("2", 60, A=3), Cancel(US, of("2")), reserve("3", A=1)]
    (change,) = plan(snapshot(stock()), asked).writes.stock_changed
    assert (change.available_delta, change.lowest, change.steps) == (-2, -4, 4)


def test_the_times_of_commands_are_a_microsecond_apart_and_stored():
    asked = [reserve("1", 60, A=1), Confirm(US, of("1"), None), adjust("1", 1)]
    planned = plan(snapshot(stock()), asked)
    second, third = (START + timedelta(microseconds=n) for n in (1, 2))
    (created,) = planned.writes.reservations_created
    assert (created.created_at, created.updated_at) == (START, second)
    assert created.expires_at == START + MINUTE
    assert [move.created_at for move in planned.writes.movements] == [START, second, third]
    assert planned.writes.stock_changed[0].updated_at == third
    assert planned.outcomes[2].value.created_at == third


def test_a_created_row_has_its_identity_and_time():
    planned = plan(snapshot(*sold()), [refund("r"), adjust("a", 2)])
    given, adjusted = (outcome.value for outcome in planned.outcomes)
    assert (given.id, given.source, given.seq) == (refund_id("us", "r"), "us", "r")
    assert (given.entire, given.created_at) == (True, START)
    assert (adjusted.id, adjusted.source, adjusted.seq) == (adjustment_id("us", "a"), "us", "a")
    assert (adjusted.sku, adjusted.location, adjusted.reason) == ("A", "main", "count")


def test_a_reservation_of_another_source_is_not_found():
    asked = Cancel(Caller("them"), of("hold"))
    assert only(plan(snapshot(*held()), [asked])).code == "not_found"
    asked = Cancel(Caller("them", True), of("hold"))
    assert only(plan(snapshot(*held()), [asked])).effect == "changed"


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        (put("A", 1, version=3), "The version is 4."),
        (put("B", 1, version=3), "There is no such stock row."),
        (adjust("1", -9), "The adjustment would take available below zero."),
        (adjust("1", 1, "B"), "B is not stocked at main."),
        (reserve("1", A=9), "There is not enough stock for this reservation."),
        (reserve("hold", A=1), "The first request with this identity differs in lines."),
        (
            Confirm(US, of("hold"), (Line("A", "main", 9),)),
            "The request confirms more units than the reservation holds.",
        ),
    ],
)
def test_a_refusal_explains_the_error_in_a_sentence(asked, detail):
    rows = [*held(), sold()[1]]
    assert str(only(plan(snapshot(*rows), [asked]))) == detail


@pytest.mark.parametrize(("available", "held"), [(-6, 0), (0, -3), (9, -3), (-6, 3)])
def test_no_rule_can_take_a_row_below_zero(available, held):
    message = r"^a plan takes stock row \('A', 'main'\) below zero units$"
    books = Books(snapshot(stock(held=2)))
    books.at = START
    with pytest.raises(AssertionError, match=message):
        books.move(("A", "main"), MovementKind.SET, available, held)


@pytest.mark.parametrize("row", [stock("B"), stock("A", deleted=True)])
def test_no_rule_can_adjust_or_delete_a_row_that_does_not_exist(row):
    message = r"^a plan changes stock row \('A', 'main'\), which does not exist$"
    for change in (
        lambda books: books.adjust(("A", "main"), 1),
        lambda books: books.delete(("A", "main")),
    ):
        with pytest.raises(AssertionError, match=message):
            change(Books(snapshot(row)))


def test_the_error_of_a_request_for_unknown_rows_names_the_rows():
    problem = only(plan(snapshot(stock("B")), [reserve("r", A=1, B=1, C=1)]))
    assert problem.fields == {
        "unknown": [{"sku": "A", "location": "main"}, {"sku": "C", "location": "main"}]
    }


def test_no_rule_can_move_a_row_that_was_not_loaded():
    message = r"^a plan moves stock row \('B', 'main'\), which was not loaded$"
    with pytest.raises(AssertionError, match=message):
        Books(snapshot(stock())).move(("B", "main"), MovementKind.SET, 1, 0)
