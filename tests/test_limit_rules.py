"""The rules of a source's limits, line by line, without a database."""

from datetime import timedelta
from typing import Any

import pytest

from db.rows import Line, SourceLimit, SourceLimitChange
from db.vocabulary import State, Tracking
from service.domain.commands import Caller, Cancel, Confirm, Done, Expire, Extend
from service.domain.planner import plan
from tests.commands import START
from tests.test_guards import US, of, put, refund, reserve
from tests.test_rules import MINUTE, reservation, snapshot, stock

LINES = (Line("A", "main", 2), Line("B", "main", 3))


def limit(
    open_holds: int = 0,
    held_units: int = 0,
    *,
    holds: int | None = None,
    units: int | None = None,
    seconds: int | None = None,
    tracking: str = Tracking.ON,
) -> SourceLimit:
    return SourceLimit("us", holds, units, seconds, tracking, open_holds, held_units)


def limited(limit: SourceLimit | None, *rows: Any) -> Any:
    found = snapshot(*rows)
    found.limits = {} if limit is None else {limit.source: limit}
    return found


def hold(seq: str, **more: Any) -> Any:
    return reservation(seq, State.HELD, lines=LINES, **more)


def codes(outcomes: Any) -> list[str]:
    return ["ok" if isinstance(each, Done) else each.code for each in outcomes]


SHELF = [stock("A", 9, held=2), stock("B", 9, held=3)]


def test_a_hold_is_one_open_hold_and_all_units_of_its_lines():
    planned = plan(limited(limit(4, 7, holds=9), *SHELF), [reserve("1", 60, A=2, B=1)])
    assert planned.writes.limits_changed == [SourceLimitChange("us", 1, 3, 1, 3, None, None)]


@pytest.mark.parametrize("tracking", [Tracking.ON, Tracking.COUNTING])
@pytest.mark.parametrize(
    "step",
    [
        Confirm(US, of("hold"), None),
        Confirm(US, of("hold"), (Line("B", "main", 1),)),
        Cancel(US, of("hold")),
        Expire(of("hold")),
        refund("r", sale="hold"),
    ],
)
def test_each_end_of_a_hold_gives_its_use_back_and_needs_no_room(step, tracking):
    is_overdue = isinstance(step, Expire) or not isinstance(step, Confirm | Cancel)
    found = hold("hold", expires_at=START if is_overdue else START + MINUTE)
    planned = plan(limited(limit(1, 5, holds=0, units=0, tracking=tracking), *SHELF, found), [step])
    assert planned.writes.limits_changed == [
        SourceLimitChange("us", -1, -5, None, None, None, None)
    ]


def test_an_extension_and_a_repeated_step_change_no_use():
    ended = reservation("ended", State.CANCELLED)
    steps = [Extend(US, of("hold"), 90), Cancel(US, of("ended"))]
    planned = plan(limited(limit(1, 5, holds=9), *SHELF, hold("hold"), ended), steps)
    assert codes(planned.outcomes) == ["ok", "ok"]
    assert planned.writes.limits_changed == []


def test_a_sale_and_a_refused_hold_change_no_use():
    commands = [reserve("1", A=1), reserve("2", 60, B=99)]
    planned = plan(limited(limit(holds=0), *SHELF), commands[:1])
    assert planned.writes.limits_changed == []
    planned = plan(limited(limit(holds=9), *SHELF), commands[1:])
    assert codes(planned.outcomes) == ["insufficient_stock"]
    assert planned.writes.limits_changed == []


@pytest.mark.parametrize("tracked", [None, limit(seconds=600, tracking=Tracking.OFF)])
def test_a_source_without_quota_writes_nothing_about_it(tracked):
    steps = [reserve("1", 60, A=1), Cancel(US, of("hold"))]
    planned = plan(limited(tracked, *SHELF, hold("hold")), steps)
    assert codes(planned.outcomes) == ["ok", "ok"]
    assert planned.writes.limits_changed == []


def test_the_use_may_reach_each_limit_but_not_exceed_it():
    full = limited(limit(4, 8, holds=5, units=10), *SHELF)
    (allowed,) = plan(full, [reserve("1", 60, A=2)]).outcomes
    assert isinstance(allowed, Done)
    (refused,) = plan(full, [reserve("1", 60, A=3)]).outcomes
    assert refused.fields == {"limit": "held_units_max", "max": 10, "used": 8, "asked": 3}
    (_, refused) = plan(full, [reserve("1", 60, A=1), reserve("2", 60, A=1)]).outcomes
    assert refused.fields == {"limit": "open_holds_max", "max": 5, "used": 5, "asked": 1}
    assert refused.detail == "The open holds of us would exceed open_holds_max."
    assert not refused.replayed


def test_the_limit_of_holds_is_named_before_that_of_units():
    (refused,) = plan(
        limited(limit(1, 1, holds=1, units=1), *SHELF), [reserve("1", 60, A=9)]
    ).outcomes
    assert refused.fields["limit"] == "open_holds_max"


def test_a_quota_refusal_stores_nothing_and_reclaims_nothing():
    overdue = hold("hold", expires_at=START)
    planned = plan(limited(limit(1, 5, holds=1), *SHELF, overdue), [reserve("1", 60, A=1)])
    assert codes(planned.outcomes) == ["quota_exceeded"]
    assert not planned.writes


def test_answers_have_the_order_stored_answer_seconds_unknown_sku_quota_shortages():
    full = limit(1, 5, holds=1, seconds=60)
    found = limited(full, *SHELF, hold("hold", hold_seconds=90))
    commands = [
        reserve("hold", 90, A=2, B=3),
        reserve("1", 90, X=1),
        reserve("1", 60, X=1),
        reserve("1", 60, A=99),
    ]
    answers = [plan(found, [command]).outcomes[0] for command in commands]
    assert codes(answers) == ["ok", "invalid_request", "unknown_sku", "quota_exceeded"]
    assert answers[0].replayed


def test_other_sources_have_their_own_use():
    theirs = SourceLimit("them", 0, 0, 1, Tracking.ON, 0, 0)
    (allowed,) = plan(limited(theirs, *SHELF), [reserve("1", 60, A=1)]).outcomes
    assert isinstance(allowed, Done)


def test_a_hold_that_an_admin_ends_gives_back_to_the_source_that_made_it():
    admin = Caller("admin", every_source=True)
    steps = [Cancel(admin, of("hold"))]
    planned = plan(limited(limit(1, 5, holds=1), *SHELF, hold("hold")), steps)
    assert planned.writes.limits_changed[0][:3] == ("us", -1, -5)


def test_while_holds_are_counted_the_use_is_never_shown_below_zero():
    found = limited(limit(0, 0, units=4, tracking=Tracking.COUNTING), *SHELF, hold("hold"))
    (_, refused) = plan(found, [Cancel(US, of("hold")), reserve("1", 60, A=11)]).outcomes
    assert refused.fields == {"limit": "held_units_max", "max": 4, "used": 0, "asked": 11}


def test_the_guard_needs_room_for_the_highest_use_in_the_course_of_the_batch():
    steps = [reserve("1", 60, A=2), reserve("2", 60, B=1), Cancel(US, of("1")), Cancel(US, of("2"))]
    planned = plan(limited(limit(holds=9, units=9), *SHELF), steps)
    assert planned.writes.limits_changed == [SourceLimitChange("us", 0, 0, 2, 3, None, None)]


def test_the_guard_needs_no_room_that_the_batch_has_made_before():
    steps = [Cancel(US, of("hold")), reserve("1", 60, A=1)]
    planned = plan(limited(limit(1, 5, holds=1), *SHELF, hold("hold")), steps)
    assert planned.writes.limits_changed == [SourceLimitChange("us", 0, -4, 0, -4, None, None)]


def test_a_refusal_that_needs_other_holds_of_its_batch_is_guarded():
    steps = [reserve(str(n), 60, A=1) for n in range(4)]
    planned = plan(limited(limit(holds=2), *SHELF), steps)
    assert codes(planned.outcomes) == ["ok", "ok", "quota_exceeded", "quota_exceeded"]
    assert planned.writes.limits_changed == [SourceLimitChange("us", 2, 2, 2, 2, 3, None)]
    steps = [reserve("1", 60, A=3), reserve("2", 60, A=3), reserve("3", 60, A=2)]
    planned = plan(limited(limit(units=4), *SHELF), steps)
    assert codes(planned.outcomes) == ["ok", "quota_exceeded", "quota_exceeded"]
    assert planned.writes.limits_changed == [SourceLimitChange("us", 1, 3, 1, 3, None, 5)]


def test_a_refusal_that_was_true_before_its_batch_needs_no_guard():
    steps = [Cancel(US, of("hold")), reserve("1", 60, A=9)]
    planned = plan(limited(limit(1, 5, units=8), *SHELF, hold("hold")), steps)
    assert codes(planned.outcomes) == ["ok", "quota_exceeded"]
    assert planned.writes.limits_changed == [
        SourceLimitChange("us", -1, -5, None, None, None, None)
    ]


def test_a_quota_refusal_pins_no_stock_row():
    steps = [reserve("1", 60, A=1), reserve("2", 60, A=1)]
    planned = plan(limited(limit(holds=1), *SHELF), steps)
    assert [row.seen_version for row in planned.writes.stock_changed] == [None]


def test_a_shortage_that_needs_the_batch_relies_on_the_room_that_was_found():
    steps = [reserve("1", A=9), reserve("2", 60, A=1)]
    planned = plan(limited(limit(holds=1), *SHELF), steps)
    assert codes(planned.outcomes) == ["ok", "insufficient_stock"]
    assert planned.writes.limits_changed == [SourceLimitChange("us", 0, 0, 1, 1, None, None)]


def test_a_shortage_behind_room_that_the_batch_has_made_pins_its_row():
    steps = [Cancel(US, of("hold")), reserve("1", 60, C=99)]
    found = limited(limit(1, 5, holds=1), *SHELF, stock("C", 1), hold("hold"))
    planned = plan(found, steps)
    assert codes(planned.outcomes) == ["ok", "insufficient_stock"]
    assert planned.writes.stock_pinned == [("C", "main", 4)]


def test_a_shortage_behind_room_that_there_was_pins_nothing():
    steps = [Cancel(US, of("hold")), reserve("1", 60, C=99)]
    found = limited(limit(1, 5, holds=2), *SHELF, stock("C", 1), hold("hold"))
    assert plan(found, steps).writes.stock_pinned == []


def test_sources_are_written_in_the_order_of_their_names():
    found = limited(None, *SHELF, hold("hold"))
    found.limits = {
        source: SourceLimit(source, 9, None, None, Tracking.ON, 1, 5) for source in ("us", "a", "z")
    }
    commands = [Cancel(US, of("hold"))]
    for source in ("z", "a"):
        command = reserve("1", 60, A=1)
        command.source, command.effective_id = source, of(source)
        commands.append(command)
    changed = plan(found, commands).writes.limits_changed
    assert [row.source for row in changed] == ["a", "us", "z"]


def test_a_hold_may_last_as_long_as_its_source_may_hold_and_no_longer():
    found = limited(limit(seconds=60, tracking=Tracking.OFF), *SHELF)
    assert codes(plan(found, [reserve("1", 60, A=1)]).outcomes) == ["ok"]
    (refused,) = plan(found, [reserve("1", 61, A=1)]).outcomes
    message = "is too long: a hold of us may be open for 60 seconds in all"
    assert refused.fields["errors"] == [{"path": "hold_seconds", "message": message}]


def test_extensions_together_may_not_exceed_the_time_that_a_source_may_hold():
    found = limited(limit(seconds=90, tracking=Tracking.OFF), *SHELF, hold("hold"))
    found.now = START + timedelta(seconds=30)
    assert codes(plan(found, [Extend(US, of("hold"), 60)]).outcomes) == ["ok"]
    (refused,) = plan(found, [Extend(US, of("hold"), 61)]).outcomes
    assert (refused.code, refused.fields["errors"][0]["path"]) == (
        "invalid_request",
        "hold_seconds",
    )
    admin = Extend(Caller("admin", every_source=True), of("hold"), 61)
    assert codes(plan(found, [admin]).outcomes) == ["invalid_request"]


def test_the_state_is_checked_before_the_time_that_a_source_may_hold():
    found = limited(limit(seconds=1, tracking=Tracking.OFF), *SHELF, hold("hold", expires_at=START))
    (refused,) = plan(found, [Extend(US, of("hold"), 61)]).outcomes
    assert refused.code == "illegal_transition"


def test_a_plan_that_opens_a_hold_needs_the_limits():
    found = limited(None, *SHELF)
    found.limits = None
    with pytest.raises(AssertionError, match="needs the limits of us"):
        plan(found, [reserve("1", 60, A=1)])
    assert codes(plan(found, [reserve("1", A=1), put("Z", 1)]).outcomes) == ["ok", "ok"]
