"""The table of states and steps equals the drawing in the contract, and the planner follows it.

The tests cover each step from each state, before and at the deadline, and need no database.
"""

import pytest

from db.rows import Line
from db.vocabulary import State
from service.domain.commands import Cancel, Confirm, Done, Expire, Extend
from service.domain.errors import IllegalTransition
from service.domain.lifecycle import (
    LIFECYCLE,
    NOTHING_DUE,
    REPEATED,
    Verdicts,
    allowed,
    first_state,
    state_after,
    verdict_on,
)
from service.domain.planner import plan
from tests.commands import START
from tests.test_guards import US, of, refund, reserve
from tests.test_rules import MINUTE, only, reservation, snapshot, stock

PART = (Line("A", "main", 1),)
COMMANDS = {
    "confirm": Confirm(US, of("it"), None),
    "cancel": Cancel(US, of("it")),
    "extend": Extend(US, of("it"), 90),
    "refund": refund("r", "it", PART),
    "refund_rest": refund("r", "it"),
    "expire": Expire(of("it")),
}
DRAWN = {
    ("held", "confirm"): "confirmed",
    ("held", "cancel"): "cancelled",
    ("held", "extend"): "held",
    ("held", "expire"): "expired",
    ("confirmed", "refund"): "confirmed",
    ("confirmed", "refund_rest"): "refunded",
}
"""The arrows of the contract's drawing."""
REPEATS = {("confirmed", "confirm"), ("cancelled", "cancel")}
"""The steps whose repetition the contract answers with 200."""
ALLOWED = {
    "held": ["confirm", "cancel", "extend"],
    "confirmed": ["refund"],
    "cancelled": [],
    "expired": [],
    "refunded": [],
    "rejected": [],
}
"""The steps that a client can take from each state; it can't ask for `expire`."""
STEPS = [(state, step) for state in ALLOWED for step in COMMANDS]


def in_state(state, deadline=START + MINUTE):
    sold = 2 if state in ("confirmed", "refunded") else 0
    line = Line("A", "main", 2, confirmed=sold, refunded=2 if state == "refunded" else 0)
    return reservation("it", state, lines=(line,), expires_at=deadline)


def asked(state, step, deadline=START + MINUTE):
    """Return the plan of a step from a state."""
    held = 2 if state == "held" else 0
    return plan(snapshot(stock(held=held), in_state(state, deadline)), [COMMANDS[step]])


def test_the_table_has_a_verdict_on_each_step_from_each_state():
    assert set(LIFECYCLE) == set(State) == set(ALLOWED)
    assert set(Verdicts._fields) == set(COMMANDS)


@pytest.mark.parametrize(("state", "step"), STEPS)
def test_the_table_equals_the_drawing_in_the_contract(state, step):
    verdict = verdict_on(state, step)
    if (state, step) in DRAWN:
        assert verdict is State(DRAWN[state, step]) is state_after(state, step)
    elif (state, step) in REPEATS:
        assert verdict == REPEATED
    elif step == "expire":
        assert verdict == NOTHING_DUE
    else:
        assert verdict is IllegalTransition


@pytest.mark.parametrize(("state", "step"), [each for each in STEPS if each not in DRAWN])
def test_no_plan_can_take_a_step_that_leads_to_no_state(state, step):
    message = f"^a plan takes the step {step} from the state {state}$"
    with pytest.raises(AssertionError, match=message):
        state_after(state, step)


@pytest.mark.parametrize(("state", "step"), DRAWN)
def test_a_step_leads_to_the_state_in_the_drawing(state, step):
    (changed,) = asked(
        state, step, START if step == "expire" else START + MINUTE
    ).writes.reservations_changed
    assert (changed.id, changed.seen_version, changed.version) == (of("it"), 1, 2)
    assert changed.state == DRAWN[state, step]


@pytest.mark.parametrize(("state", "step"), sorted(REPEATS))
def test_a_repeated_step_succeeds_and_moves_no_units(state, step):
    planned = asked(state, step)
    assert planned.outcomes == [Done("unchanged", in_state(state))]
    assert (bool(planned.writes), planned.writes.movements) == (False, [])


@pytest.mark.parametrize(
    ("state", "step"), [each for each in STEPS if each not in DRAWN and each not in REPEATS]
)
def test_every_other_step_is_refused_and_moves_no_units(state, step):
    planned = asked(state, step)
    assert (bool(planned.writes), planned.writes.movements) == (False, [])
    if step == "expire":
        assert planned.outcomes == [Done("unchanged", None)]
        return
    refusal = only(planned)
    assert (refusal.status, refusal.code) == (409, "illegal_transition")
    assert refusal.fields == {"state": state, "allowed": ALLOWED[state]}
    name = step.removesuffix("_rest")
    assert str(refusal) == f"The reservation is {state}, so {name} is not allowed."


@pytest.mark.parametrize("step", [step for step in COMMANDS if step != "expire"])
def test_at_the_deadline_a_hold_expires_before_any_other_step(step):
    planned = asked("held", step, START)
    (changed,) = planned.writes.reservations_changed
    assert (changed.state, planned.writes.apply_before) == ("expired", None)
    assert only(planned).fields == {"state": "expired", "allowed": []}


def test_before_its_deadline_a_hold_does_not_expire():
    planned = asked("held", "expire")
    assert planned.outcomes == [Done("unchanged", None)]
    assert not planned.writes


@pytest.mark.parametrize("state", ALLOWED)
def test_a_client_can_take_the_steps_in_the_drawing_from_each_state(state):
    assert allowed(state) == ALLOWED[state]


@pytest.mark.parametrize(
    ("units", "hold_seconds", "state"),
    [(1, None, "confirmed"), (1, 60, "held"), (9, None, "rejected"), (9, 60, "rejected")],
)
def test_a_reservation_begins_in_the_state_in_the_drawing(units, hold_seconds, state):
    (row,) = plan(
        snapshot(stock()), [reserve("1", hold_seconds, A=units)]
    ).writes.reservations_created
    assert row.state == state
    assert first_state(is_short=units == 9, is_hold=hold_seconds is not None) == state
