"""What becomes of a hold, as pure functions: each way out of it, line by line."""

from datetime import timedelta
from typing import Any

import pytest

from db.rows import Line
from service.commands import Cancel, Confirm, Expire, Extend
from service.lifecycle import State
from service.planner import Plan, plan
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
    assert [line.confirmed for line in sold.lines] == [0, 1]
    assert not only(planned).replayed


def test_a_confirm_of_everything_releases_nothing_and_is_repeated_by_either_spelling():
    steps = [Confirm(US, of("hold"), None), Confirm(US, of("hold"), LINES)]
    planned = plan(snapshot(*two_held()), steps)
    assert moves(planned) == [("A", "confirm", 0, -2), ("B", "confirm", 0, -3)]
    assert [(each.status, each.replayed) for each in planned.outcomes] == [
        (200, False),
        (200, True),
    ]


@pytest.mark.parametrize(
    ("step", "kind", "state"),
    [(Cancel(US, of("hold")), "cancel", "cancelled"), (Expire(of("hold")), "expire", "expired")],
)
def test_what_is_released_goes_back_line_by_line(step, kind, state):
    deadline = {"expires_at": START} if kind == "expire" else {}
    planned = plan(snapshot(*two_held(**deadline)), [step])
    assert moves(planned) == [("A", kind, 2, -2), ("B", kind, 3, -3)]
    released = only(planned).value
    assert (released.state, released.version, released.updated_at) == (state, 2, START)
    assert {move.reservation_version for move in planned.writes.movements} == {2}
    assert only(planned).status == 200


def test_a_cancel_is_repeated_and_moves_nothing_again():
    planned = plan(snapshot(*two_held()), [Cancel(US, of("hold"))] * 2)
    assert [each.replayed for each in planned.outcomes] == [False, True]
    assert len(planned.writes.movements) == 2


def test_an_extended_hold_has_a_new_deadline_and_its_units():
    planned = plan(snapshot(*two_held()), [Extend(US, of("hold"), 90)])
    extended = only(planned).value
    assert (extended.state, extended.version) == (State.HELD, 2)
    assert extended.expires_at == START + timedelta(seconds=90)
    assert (moves(planned), extended.lines) == ([], LINES)


@pytest.mark.parametrize("step", [Confirm(US, of("hold"), None), Extend(US, of("hold"), 9)])
def test_at_its_deadline_a_hold_is_expired_first(step):
    planned = plan(snapshot(*two_held(expires_at=START)), [step])
    assert moves(planned) == [("A", "expire", 2, -2), ("B", "expire", 3, -3)]
    assert only(planned).fields == {"state": "expired", "allowed": []}


@pytest.mark.parametrize("asked", [reserve("1", A=7), adjust("1", -7)])
def test_a_shortage_takes_overdue_units_back_once_they_are_known(asked):
    rows = two_held(expires_at=START)
    lacking = plan(snapshot(*rows), [asked])
    assert lacking.lacking == {("A", "main")}
    seen = snapshot(*rows)
    seen.overdue = frozenset(lacking.lacking)
    planned = plan(seen, [asked])
    assert (only(planned).status, planned.lacking) == (201, set())
    assert moves(planned)[:2] == [("A", "expire", 2, -2), ("B", "expire", 3, -3)]


def test_a_hold_that_is_not_overdue_is_not_taken_back():
    seen = snapshot(*two_held(expires_at=START + MINUTE))
    seen.overdue = frozenset({("A", "main")})
    planned = plan(seen, [reserve("1", A=7)])
    assert (only(planned).status, moves(planned)) == (409, [])


def test_a_row_without_held_units_has_no_overdue_ones():
    assert plan(snapshot(stock()), [reserve("1", A=7)]).lacking == set()
