"""The table of states and transitions, asked through the planner: all of it, without a database."""

import pytest

from db.rows import Line
from service.domain.commands import Cancel, Confirm, Done, Expire, Extend
from service.domain.lifecycle import allowed
from service.domain.planner import plan
from tests.commands import START
from tests.test_guards import US, of, refund
from tests.test_rules import MINUTE, only, reservation, snapshot, stock

ASKED = {
    "confirm": Confirm(US, of("it"), None),
    "cancel": Cancel(US, of("it")),
    "extend": Extend(US, of("it"), 90),
    "expire": Expire(of("it")),
    "refund": refund("r", "it"),
}
LEADS_TO = {
    ("held", "confirm"): "confirmed",
    ("held", "cancel"): "cancelled",
    ("held", "extend"): "held",
    ("held", "expire"): "expired",
    ("confirmed", "refund"): "refunded",
}
HOLDS_ALREADY = {("confirmed", "confirm"), ("cancelled", "cancel")}
STATES = {
    "held": ["confirm", "cancel", "extend"],
    "confirmed": ["refund"],
    "cancelled": [],
    "expired": [],
    "refunded": [],
    "rejected": [],
}
"""What a client can ask for in each state: not for `expire`, which comes by itself."""
STEPS = [(state, transition) for state in STATES for transition in ASKED]


def in_state(state, deadline=START + MINUTE):
    sold = 2 if state in ("confirmed", "refunded") else 0
    line = Line("A", "main", 2, confirmed=sold, refunded=2 if state == "refunded" else 0)
    return reservation("it", state, lines=(line,), expires_at=deadline)


@pytest.mark.parametrize(("state", "transition"), LEADS_TO)
def test_a_transition_leads_where_the_drawing_says(state, transition):
    deadline = START if transition == "expire" else START + MINUTE
    seen = snapshot(stock(held=2 if state == "held" else 0), in_state(state, deadline))
    (changed,) = plan(seen, [ASKED[transition]]).writes.reservations_changed
    assert (changed.id, changed.seen_version, changed.version) == (of("it"), 1, 2)
    assert changed.state == LEADS_TO[state, transition]


@pytest.mark.parametrize(("state", "transition"), sorted(HOLDS_ALREADY))
def test_what_holds_already_is_answered_and_moves_nothing(state, transition):
    there = in_state(state)
    planned = plan(snapshot(stock(), there), [ASKED[transition]])
    assert planned.outcomes == [Done("unchanged", there)]
    assert (bool(planned.writes), planned.writes.movements) == (False, [])


@pytest.mark.parametrize(
    ("state", "transition"),
    [step for step in STEPS if step not in LEADS_TO and step not in HOLDS_ALREADY],
)
def test_every_other_step_is_refused_and_moves_nothing(state, transition):
    held = 2 if state == "held" else 0
    planned = plan(snapshot(stock(held=held), in_state(state)), [ASKED[transition]])
    assert (bool(planned.writes), planned.writes.movements) == (False, [])
    if transition == "expire":
        assert planned.outcomes == [Done("unchanged", None)]
        return
    refusal = only(planned)
    assert (refusal.status, refusal.code) == (409, "illegal_transition")
    assert refusal.fields == {"state": state, "allowed": STATES[state]}
    assert str(refusal) == f"A reservation that is {state} can't {transition}."


@pytest.mark.parametrize("state", STATES)
def test_what_a_client_can_ask_for_in_each_state(state):
    assert allowed(state) == STATES[state]
