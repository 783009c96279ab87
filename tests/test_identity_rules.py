"""The same request again, or another under its number, as pure functions."""

import pytest

from service.lifecycle import State
from service.planner import plan
from tests.test_guards import of, reserve
from tests.test_rules import held, only, reservation, snapshot, stock


@pytest.mark.parametrize(
    ("field", "asked", "stored", "sent"),
    [
        ("hold_seconds", reserve("hold", 90, A=2), 60, 90),
        (
            "lines",
            reserve("hold", 60, A=3),
            [{"sku": "A", "location": "main", "quantity": 2}],
            [{"sku": "A", "location": "main", "quantity": 3}],
        ),
    ],
)
def test_a_mismatch_tells_both_contents(field, asked, stored, sent):
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": field, "stored": stored, "sent": sent}


def test_another_id_is_told_and_another_sources_is_not():
    asked = reserve("hold", 60, A=2)
    asked.id = asked.effective_id = of("other")
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": "id", "stored": str(of("hold")), "sent": str(of("other"))}
    theirs = reservation("other", State.HELD, source="them", seq="theirs")
    asked.seq = "new"
    problem = only(plan(snapshot(stock(), theirs), [asked])).fields
    assert problem == {"field": "id", "stored": None, "sent": str(of("other"))}


def test_another_seq_for_an_id_is_told():
    asked = reserve("new", 60, A=2)
    asked.id = asked.effective_id = of("hold")
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": "seq", "stored": "hold", "sent": "new"}


def test_other_metadata_is_told():
    asked = reserve("hold", 60, A=2)
    asked.metadata = {"cart": "1"}
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": "metadata", "stored": {}, "sent": {"cart": "1"}}


def test_a_refusal_names_the_reservation_that_remembers_it():
    for asked, is_replayed in (
        ([reserve("1", A=9)] * 1, [False]),
        ([reserve("1", A=9)] * 2, [False, True]),
    ):
        outcomes = plan(snapshot(stock()), asked).outcomes
        assert [outcome.replayed for outcome in outcomes] == is_replayed
        assert {outcome.fields["reservation_id"] for outcome in outcomes} == {str(of("1"))}
