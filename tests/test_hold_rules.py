"""The rules that end or extend a hold, line by line, without a database."""

from datetime import timedelta
from typing import Any

import pytest

from db.rows import Line, Movement, ReservationChange, StockChange
from db.vocabulary import State
from service.domain.commands import Cancel, Confirm, Done, Expire, Extend
from service.domain.planner import Plan, plan
from tests.commands import START
from tests.test_guards import US, adjust, of, reserve
from tests.test_rules import MINUTE, only, reservation, snapshot, stock

LINES = (Line("A", "main", 2), Line("B", "main", 3))


def two_held(**more: Any) -> list[Any]:
    hold = reservation("hold", State.HELD, lines=LINES, **more)
    return [stock("A", held=2), stock("B", held=3), hold]


def moves(planned: Plan) -> list[tuple[Any, ...]]:
    return [(m.sku, m.kind, m.available_delta, m.held_delta) for m in planned.writes.movements]


def test_a_confirm_of_a_part_releases_the_rest():
    planned = plan(snapshot(*two_held()), [Confirm(US, of("hold"), (Line("B", "main", 1),))])
    assert moves(planned) == [("A", "confirm", 2, -2), ("B", "confirm", 2, -3)]
    sold = only(planned).value
    assert (sold.state, sold.version, sold.updated_at) == (State.CONFIRMED, 2, START)
    names = {(move.reservation_id, move.reservation_version) for move in planned.writes.movements}
    assert names == {(of("hold"), 2)}
    assert [line.confirmed for line in sold.lines] == [0, 1]
    assert not only(planned).replayed


def test_a_confirm_with_all_lines_repeats_one_without_lines_and_neither_releases_units():
    steps = [Confirm(US, of("hold"), None), Confirm(US, of("hold"), LINES)]
    planned = plan(snapshot(*two_held()), steps)
    assert moves(planned) == [("A", "confirm", 0, -2), ("B", "confirm", 0, -3)]
    assert [each.effect for each in planned.outcomes] == ["changed", "unchanged"]


@pytest.mark.parametrize(
    ("step", "kind", "state"),
    [(Cancel(US, of("hold")), "cancel", "cancelled"), (Expire(of("hold")), "expire", "expired")],
)
def test_released_units_return_to_stock_line_by_line(step, kind, state):
    deadline = {"expires_at": START} if kind == "expire" else {}
    planned = plan(snapshot(*two_held(**deadline)), [step])
    assert moves(planned) == [("A", kind, 2, -2), ("B", kind, 3, -3)]
    released = only(planned).value
    assert (released.state, released.version, released.updated_at) == (state, 2, START)
    assert {move.reservation_version for move in planned.writes.movements} == {2}
    assert {move.created_at for move in planned.writes.movements} == {START}
    assert only(planned).effect == "changed"


def test_a_cancel_is_repeated_and_moves_nothing_again():
    planned = plan(snapshot(*two_held()), [Cancel(US, of("hold"))] * 2)
    assert [each.replayed for each in planned.outcomes] == [False, True]
    assert len(planned.writes.movements) == 2


def test_an_extended_hold_has_a_new_deadline_and_keeps_its_units():
    planned = plan(snapshot(*two_held()), [Extend(US, of("hold"), 90)])
    extended = only(planned).value
    assert (only(planned).effect, extended.state, extended.version) == ("changed", State.HELD, 2)
    deadline = START + timedelta(seconds=90)
    assert (extended.expires_at, extended.updated_at) == (deadline, START)
    change = ReservationChange(of("hold"), 1, 2, State.HELD, deadline, START)
    assert planned.writes.reservations_changed == [change]
    assert (moves(planned), extended.lines) == ([], LINES)


@pytest.mark.parametrize("step", [Confirm(US, of("hold"), None), Extend(US, of("hold"), 9)])
def test_at_its_deadline_a_hold_expires_first(step):
    planned = plan(snapshot(*two_held(expires_at=START)), [step])
    assert moves(planned) == [("A", "expire", 2, -2), ("B", "expire", 3, -3)]
    assert only(planned).fields == {"state": "expired", "allowed": []}
    assert {move.created_at for move in planned.writes.movements} == {START}
    assert planned.writes.reservations_changed[0].updated_at == START


@pytest.mark.parametrize("asked", [reserve("1", A=7), adjust("1", -7)])
def test_a_shortage_expires_overdue_holds_once_they_are_loaded(asked):
    rows = two_held(expires_at=START)
    lacking = plan(snapshot(*rows), [asked])
    assert lacking.lacking == {("A", "main")}
    seen = snapshot(*rows)
    seen.overdue = frozenset(lacking.lacking)
    planned = plan(seen, [asked])
    assert (only(planned).effect, planned.lacking) == ("created", set())
    assert moves(planned)[:2] == [("A", "expire", 2, -2), ("B", "expire", 3, -3)]
    assert planned.writes.movements[0].created_at == START
    assert planned.writes.reservations_changed[0].updated_at == START


def test_a_shortage_does_not_expire_a_hold_that_is_not_overdue():
    seen = snapshot(*two_held(expires_at=START + MINUTE))
    seen.overdue = frozenset({("A", "main")})
    planned = plan(seen, [reserve("1", A=7)])
    assert (only(planned).code, moves(planned)) == ("insufficient_stock", [])


def test_the_overdue_holds_of_a_row_without_held_units_are_not_loaded():
    assert plan(snapshot(stock()), [reserve("1", A=7)]).lacking == set()


@pytest.mark.parametrize("asked", [reserve("1", A=8), adjust("1", -8)])
def test_a_shortage_that_remains_counts_overdue_units_as_available(asked):
    seen = snapshot(*two_held(expires_at=START))
    seen.overdue = frozenset({("A", "main")})
    planned = plan(seen, [asked])
    (shortage,) = only(planned).fields["shortages"]
    assert (shortage["requested"], shortage["available"]) == (8, 7)
    assert moves(planned) == [("A", "expire", 2, -2), ("B", "expire", 3, -3)]


def test_the_overdue_holds_of_all_short_rows_are_loaded_together():
    rows = [stock("A"), stock("B", held=1), stock("C", held=1)]
    lacking = plan(snapshot(*rows), [reserve("1", A=9, B=9, C=9)]).lacking
    assert lacking == {("B", "main"), ("C", "main")}


def test_held_units_stay_held_if_no_overdue_hold_is_found():
    seen = snapshot(stock("A", held=2))
    seen.overdue = frozenset({("A", "main")})
    planned = plan(seen, [reserve("1", A=7)])
    assert (only(planned).code, moves(planned)) == ("insufficient_stock", [])


def test_a_hold_can_not_confirm_a_row_that_it_does_not_contain():
    planned = plan(snapshot(*two_held()), [Confirm(US, of("hold"), (Line("C", "main", 1),))])
    assert (only(planned).code, moves(planned)) == ("exceeds_held", [])


def test_a_confirmed_hold_is_not_confirmed_again_with_other_lines():
    steps = [Confirm(US, of("hold"), None), Confirm(US, of("hold"), LINES[:1])]
    refused = plan(snapshot(*two_held()), steps).outcomes[1]
    assert refused.fields == {"state": "confirmed", "allowed": ["refund"]}


def test_steps_of_several_holds_are_one_change_of_a_stock_row_and_one_of_each_line():
    holds = [reservation(seq, State.HELD, lines=LINES) for seq in ("1", "2")]
    rows = [stock("A", held=4), stock("B", held=6), *holds]
    writes = plan(snapshot(*rows), [Confirm(US, of(seq), None) for seq in ("1", "2")]).writes
    assert [(change.sku, change.held_delta) for change in writes.stock_changed] == [
        ("A", -4),
        ("B", -6),
    ]
    sold = [line._replace(confirmed=line.quantity) for line in LINES]
    assert writes.lines_changed == [
        (id_, line) for id_ in sorted([of("1"), of("2")]) for line in sold
    ]


def test_a_new_hold_has_equal_times_of_creation_and_change():
    (created,) = plan(snapshot(stock()), [reserve("1", 60, A=1)]).writes.reservations_created
    assert (created.created_at, created.updated_at) == (START, START)


@pytest.mark.parametrize(("hold", "units"), [(60, (0, 2)), (None, (2, 0))])
def test_reserved_units_are_held_until_the_deadline_or_sold_at_once(hold, units):
    planned = plan(snapshot(stock()), [reserve("1", hold, A=2)])
    sold, held = units
    row = reservation(
        "1",
        State.HELD if hold else State.CONFIRMED,
        hold_seconds=hold,
        expires_at=START + MINUTE if hold else None,
        lines=(Line("A", "main", 2, confirmed=sold),),
    )
    assert planned.outcomes == [Done("created", row)]
    assert planned.writes.reservations_created == [row]
    taken = Movement("A", "main", 1, "reserve", -2, held, of("1"), 1, START)
    assert planned.writes.movements == [taken]
    change = StockChange("A", "main", -2, held, -2, 1, None, "a thing", 3, False, START)
    assert planned.writes.stock_changed == [change]
