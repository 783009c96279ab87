"""The table of states and transitions, without a database."""

import pytest

from service.commands import Cancel, Confirm, Extend
from service.lifecycle import State, allowed
from service.planner import plan
from tests.test_guards import US, of, refund
from tests.test_rules import only, reservation, snapshot, sold, stock


@pytest.mark.parametrize(
    ("state", "transitions"),
    [
        (State.HELD, ["confirm", "cancel", "extend"]),
        (State.CONFIRMED, ["refund"]),
        *((state, []) for state in (State.CANCELLED, State.EXPIRED, State.REFUNDED)),
        (State.REJECTED, []),
    ],
)
def test_what_a_client_can_ask_for_in_each_state(state, transitions):
    assert allowed(state) == transitions


def test_an_illegal_transition_tells_what_is_allowed():
    problem = only(plan(snapshot(*sold()), [Cancel(US, of("sale"))])).fields
    assert problem == {"state": "confirmed", "allowed": ["refund"]}
    cancelled = reservation("sale", State.CANCELLED)
    for asked in (Confirm(US, of("sale"), None), Extend(US, of("sale"), 5), refund("r")):
        problem = only(plan(snapshot(stock(), cancelled), [asked])).fields
        assert problem == {"state": "cancelled", "allowed": []}
