"""The rules for repeated requests and for other requests with the same identity."""

import pytest

from db.rows import Adjustment, Refund
from db.vocabulary import State
from service.domain.commands import Done
from service.domain.planner import plan
from tests.test_guards import adjust, of, refund, reserve
from tests.test_rules import held, only, reservation, snapshot, sold, stock


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
def test_a_mismatch_reports_both_contents(field, asked, stored, sent):
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": field, "stored": stored, "sent": sent}


def test_a_mismatch_of_ids_hides_the_reservation_of_another_source():
    asked = reserve("hold", 60, A=2)
    asked.id = asked.effective_id = of("other")
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": "id", "stored": str(of("hold")), "sent": str(of("other"))}
    theirs = reservation("other", State.HELD, source="them", seq="theirs")
    asked.seq = "new"
    problem = only(plan(snapshot(stock(), theirs), [asked])).fields
    assert problem == {"field": "id", "stored": None, "sent": str(of("other"))}


def test_another_seq_for_an_id_is_a_mismatch():
    asked = reserve("new", 60, A=2)
    asked.id = asked.effective_id = of("hold")
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": "seq", "stored": "hold", "sent": "new"}


def test_other_metadata_is_a_mismatch():
    asked = reserve("hold", 60, A=2)
    asked.metadata = {"cart": "1"}
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"field": "metadata", "stored": {}, "sent": {"cart": "1"}}


def test_a_refusal_names_the_reservation_that_stores_it():
    for asked, is_replayed in (
        ([reserve("1", A=9)] * 1, [False]),
        ([reserve("1", A=9)] * 2, [False, True]),
    ):
        outcomes = plan(snapshot(stock()), asked).outcomes
        assert [outcome.replayed for outcome in outcomes] == is_replayed
        assert {outcome.fields["reservation_id"] for outcome in outcomes} == {str(of("1"))}


def test_a_derived_id_that_another_source_has_is_refused_without_details():
    theirs = reservation("1", State.HELD, source="them", seq="theirs")
    problem = only(plan(snapshot(stock(held=2), theirs), [reserve("1", 60, A=2)])).fields
    assert problem == {"field": "id", "stored": None, "sent": str(of("1"))}


def test_a_repetition_without_its_chosen_id_succeeds_though_another_source_has_the_derived_id():
    ours = reservation("1", State.HELD, id=of("chosen"))
    theirs = reservation("1", State.HELD, source="them", seq="theirs")
    planned = plan(snapshot(stock(held=4), ours, theirs), [reserve("1", 60, A=2)])
    assert planned.outcomes == [Done("unchanged", ours)]


def test_a_repetition_with_the_id_of_another_source_is_refused_without_details():
    theirs = reservation("other", State.HELD, source="them", seq="theirs")
    asked = reserve("hold", 60, A=2)
    asked.id = asked.effective_id = of("other")
    problem = only(plan(snapshot(*held(), theirs), [asked])).fields
    assert problem == {"field": "id", "stored": None, "sent": str(of("other"))}


def test_a_repeated_reservation_is_answered_with_its_current_state():
    for row in (held()[1], reservation("hold", State.EXPIRED, version=2)):
        planned = plan(snapshot(stock(held=2), row), [reserve("hold", 60, A=2)])
        assert planned.outcomes == [Done("unchanged", row)]
        assert (bool(planned.writes), planned.writes.movements) == (False, [])


@pytest.mark.parametrize(("asked", "kind"), [(refund("r"), Refund), (adjust("r", 2), Adjustment)])
def test_a_request_that_is_sent_twice_is_written_once_and_answered_with_the_stored_row(asked, kind):
    planned = plan(snapshot(*sold()), [asked, asked])
    first, second = planned.outcomes
    assert first == Done("created", first.value)
    assert second == Done("unchanged", first.value)
    assert planned.writes.answers_created == {kind: [first.value]}
    assert len(planned.writes.movements) == 1
    seen = snapshot(*sold())
    seen.answers = {kind: {("us", "r"): first.value}}
    planned = plan(seen, [asked])
    assert planned.outcomes == [second]
    assert (bool(planned.writes), planned.writes.movements) == (False, [])


def test_an_adjustment_for_another_reason_is_another_request():
    other = adjust("1", 2)
    other.reason = "theft"
    problem = plan(snapshot(stock()), [adjust("1", 2), other]).outcomes[1].fields
    assert problem == {"field": "reason", "stored": "count", "sent": "theft"}
