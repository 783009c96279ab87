"""The rules' small print, as pure functions: what tests/model.py leaves out of its answers."""

from datetime import timedelta
from typing import Any

import pytest

from db.rows import Key, Line, Reservation, Snapshot, Stock, Token
from service.commands import (
    Caller,
    Cancel,
    Confirm,
    DeleteStock,
    Expire,
    Extend,
    ImportStock,
    RefundUnits,
    SetStock,
    adjustment_id,
    refund_id,
)
from service.lifecycle import State, allowed
from service.planner import MICROSECOND, Plan, plan
from service.stock import AVAILABLE_MAX
from tests.commands import START
from tests.test_guards import US, adjust, of, put, refund, reserve

TOKEN = b"t" * 32
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


def snapshot(*rows: Stock | Reservation, tokens: tuple[Token, ...] = ()) -> Snapshot:
    shelf: dict[Key, Stock] = {row.key: row for row in rows if isinstance(row, Stock)}
    return Snapshot(
        now=START,
        stock=shelf,
        reservations={row.id: row for row in rows if isinstance(row, Reservation)},
        tokens={token.digest: token for token in tokens},
    )


def held(seq: str = "hold", **more: Any) -> list[Any]:
    return [stock(held=2), reservation(seq, State.HELD, **more)]


def sold() -> list[Any]:
    line = Line("A", "main", 2, confirmed=2)
    return [stock(), reservation("sale", State.CONFIRMED, lines=(line,), expires_at=None)]


def with_token(command: Any) -> Any:
    command.token = TOKEN
    return command


def only(planned: Plan) -> Any:
    (outcome,) = planned.outcomes
    return outcome


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


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (None, 403),
        (Token(TOKEN, START + MINUTE, START), 403),
        (Token(TOKEN, START, None), 403),
        (Token(TOKEN, START + MICROSECOND, None), 201),
    ],
)
@pytest.mark.parametrize("what", ["reserve", "refund"])
def test_a_token_is_good_once_and_until_its_moment(what, token, status):
    rows = sold() if what == "refund" else [stock()]
    asked = refund("r") if what == "refund" else reserve("1", A=1)
    planned = plan(snapshot(*rows, tokens=(token,) if token else ()), [with_token(asked)])
    assert only(planned).status == status
    assert planned.writes.tokens_consumed == ([(TOKEN, START)] if status == 201 else [])


def test_a_token_is_used_up_by_the_first_that_needs_it_refused_or_not():
    tokens = (Token(TOKEN, START + MINUTE, None),)
    asked = [with_token(reserve("1", A=9)), with_token(reserve("2", A=1))]
    planned = plan(snapshot(stock(), tokens=tokens), asked)
    assert [outcome.status for outcome in planned.outcomes] == [409, 403]
    assert planned.writes.tokens_consumed == [(TOKEN, START)]


def test_a_token_is_not_needed_for_an_answer_that_is_stored():
    asked = with_token(reserve("hold", 60, A=2))
    assert only(plan(snapshot(*held()), [asked])).status == 200


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


def test_a_refund_of_other_content_is_told():
    done = plan(snapshot(*sold()), [refund("r")])
    seen = snapshot(*sold())
    seen.refunds = {("us", "r"): only(done).value}
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
    """A sale of two of A and three of B, one of B given back already."""
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


def test_after_a_refund_of_a_part_the_sale_is_still_a_sale():
    planned = plan(snapshot(*sold_two()), [partly("r", A=1)])
    (changed,) = planned.writes.reservations_changed
    assert (changed.state, changed.updated_at) == (State.CONFIRMED, START)
    line = Line("A", "main", 2, confirmed=2, refunded=1)
    assert planned.writes.lines_changed == [(of("sale"), line)]


def test_more_than_is_left_tells_what_is():
    for asked in (partly("r", B=3), partly("r", C=1)):
        problem = only(plan(snapshot(*sold_two()), [asked])).fields["refundable"]
        assert problem == [
            {"sku": "A", "location": "main", "quantity": 2},
            {"sku": "B", "location": "main", "quantity": 2},
        ]


def test_units_of_a_row_that_was_deleted_since_are_not_given_back():
    rows = [*sold_two()[1:], stock("A", deleted=True)]
    planned = plan(snapshot(*rows), [partly("r", A=1), partly("s", B=1)])
    unknown, given = planned.outcomes
    assert unknown.fields == {"unknown": [{"sku": "A", "location": "main"}]}
    assert given.status == 201


def test_a_refund_of_a_part_is_the_same_only_with_the_same_lines():
    seen = snapshot(*sold_two())
    seen.refunds = {("us", "r"): only(plan(seen, [partly("r", "torn", A=1)])).value}
    assert only(plan(seen, [partly("r", "torn", A=1)])).replayed
    fields = only(plan(seen, [partly("r", "torn", B=1)])).fields
    assert (fields["stored"], fields["sent"][0]["sku"]) == (QUANTITY_OF_A, "B")
    fields = only(plan(seen, [refund("r")])).fields
    assert fields == {"field": "lines", "stored": QUANTITY_OF_A, "sent": None}
    fields = only(plan(seen, [partly("r", "lost", A=1)])).fields
    assert fields == {"field": "reason", "stored": "torn", "sent": "lost"}


QUANTITY_OF_A = [{"sku": "A", "location": "main", "quantity": 1}]


def test_an_adjustment_of_other_content_is_told():
    seen = snapshot(stock())
    seen.adjustments = {("us", "1"): only(plan(snapshot(stock()), [adjust("1", 2)])).value}
    problem = only(plan(seen, [adjust("1", 3)])).fields
    assert problem == {"field": "delta", "stored": 2, "sent": 3}


def test_an_import_of_other_bytes_is_told():
    first = ImportStock("us", "job", "one", (("B", "main", 5, "b"),))
    done = plan(snapshot(), [first])
    seen = snapshot()
    seen.import_jobs = {("us", "job"): only(done).value}
    assert only(plan(seen, [first])).replayed is True
    other = ImportStock("us", "job", "two", ())
    problem = only(plan(seen, [other])).fields
    assert problem == {"field": "content", "stored": "one", "sent": "two"}


def test_more_than_is_held_tells_what_is():
    asked = Confirm(US, of("hold"), (Line("A", "main", 3),))
    problem = only(plan(snapshot(*held()), [asked])).fields
    assert problem == {"held": [{"sku": "A", "location": "main", "quantity": 2}]}


def test_an_illegal_transition_tells_what_is_allowed():
    problem = only(plan(snapshot(*sold()), [Cancel(US, of("sale"))])).fields
    assert problem == {"state": "confirmed", "allowed": ["refund"]}
    cancelled = reservation("sale", State.CANCELLED)
    for asked in (Confirm(US, of("sale"), None), Extend(US, of("sale"), 5), refund("r")):
        problem = only(plan(snapshot(stock(), cancelled), [asked])).fields
        assert problem == {"state": "cancelled", "allowed": []}


@pytest.mark.parametrize(("delta", "status"), [(0, 201), (1, 400)])
def test_no_row_holds_more_than_the_most_it_may(delta, status):
    planned = plan(snapshot(stock(available=AVAILABLE_MAX - 7)), [adjust("1", 7 + delta)])
    assert only(planned).status == status
    if status == 400:
        assert only(planned).fields["errors"][0]["path"] == "delta"
        assert str(AVAILABLE_MAX) in only(planned).fields["errors"][0]["message"]
        assert not planned.writes


@pytest.mark.parametrize(
    "step", [Confirm(US, of("hold"), None), Cancel(US, of("hold")), Extend(US, of("hold"), 90)]
)
def test_what_a_client_asks_of_a_hold_must_be_written_before_its_deadline(step):
    assert plan(snapshot(*held()), [step]).writes.apply_before == START + MINUTE


def test_of_many_deadlines_the_first_binds():
    early = reservation("early", State.HELD, expires_at=START + MINUTE / 2)
    rows = [stock(held=6), early, *held()[1:], reservation("last", State.HELD)]
    steps = [Cancel(US, of(seq)) for seq in ("hold", "early", "last")]
    assert plan(snapshot(*rows), steps).writes.apply_before == START + MINUTE / 2


def test_what_needs_no_deadline_is_bound_by_none():
    overdue = held(expires_at=START)
    assert plan(snapshot(*overdue), [Expire(of("hold"))]).writes.apply_before is None
    assert plan(snapshot(*sold()), [refund("r")]).writes.apply_before is None
    assert plan(snapshot(*held()), [Expire(of("hold"))]).outcomes[0].status == 204


def test_writes_come_in_the_order_in_which_rows_are_locked():
    rows = [stock(sku) for sku in "CAB"]
    asked = [reserve("1", C=1), reserve("2", A=1), reserve("3", B=1), put("0", 1)]
    writes = plan(snapshot(*rows), asked).writes
    assert [change.sku for change in writes.stock_changed] == ["A", "B", "C"]
    ids = [row.id for row in writes.reservations_created]
    assert ids == sorted(ids)


def test_with_pinned_rows_each_change_is_guarded_by_the_version():
    asked = [reserve("1", A=1), adjust("1", -9, "B")]
    writes = plan(snapshot(stock("A"), stock("B")), asked, pins_rows=True).writes
    assert [change.seen_version for change in writes.stock_changed] == [4]
    assert writes.stock_pinned == [("B", "main", 4)]
    assert not plan(snapshot(stock("A")), asked[:1]).writes.stock_changed[0].seen_version


def test_a_row_that_was_only_asked_for_is_pinned_beside_a_change_alone():
    refused = [reserve("1", A=9, B=1)]
    assert plan(snapshot(stock("A"), stock("B")), refused).writes.stock_pinned == []
    both = [*refused, reserve("2", B=1)]
    writes = plan(snapshot(stock("A"), stock("B")), both).writes
    assert writes.stock_pinned == [("A", "main", 4)]
    assert [change.seen_version for change in writes.stock_changed] == [4]


def test_the_lowest_point_of_a_row_is_what_its_takes_need():
    asked = [reserve("1", 60, A=4), Cancel(US, of("1")), reserve("2", A=1)]
    (change,) = plan(snapshot(stock()), asked).writes.stock_changed
    assert (change.available_delta, change.lowest, change.steps) == (-1, -4, 3)


def test_moments_are_a_microsecond_apart_and_written_down():
    asked = [reserve("1", 60, A=1), Confirm(US, of("1"), None), adjust("1", 1)]
    planned = plan(snapshot(stock()), asked)
    second, third = START + MICROSECOND, START + 2 * MICROSECOND
    (created,) = planned.writes.reservations_created
    assert (created.created_at, created.updated_at) == (START, second)
    assert created.expires_at == START + MINUTE
    assert [move.created_at for move in planned.writes.movements] == [START, second, third]
    assert planned.writes.stock_changed[0].updated_at == third
    assert planned.outcomes[2].value.created_at == third


def test_what_is_created_carries_its_identity_and_moment():
    planned = plan(snapshot(*sold()), [refund("r"), adjust("a", 2)])
    given, adjusted = (outcome.value for outcome in planned.outcomes)
    assert (given.id, given.source, given.seq) == (refund_id("us", "r"), "us", "r")
    assert (given.entire, given.created_at) == (True, START)
    assert (adjusted.id, adjusted.source, adjusted.seq) == (adjustment_id("us", "a"), "us", "a")
    assert (adjusted.sku, adjusted.location, adjusted.reason) == ("A", "main", "count")


def test_a_new_row_has_its_moment_and_a_name():
    imported = ImportStock("us", "job", "digest", (("B", "main", 5, "b"),))
    planned = plan(snapshot(), [imported])
    (row,) = planned.writes.stock_created
    assert (row.name, row.created_at, row.updated_at, row.version) == ("b", START, START, 1)
    assert only(planned).value == ("us", "job", "digest", 1, 0, START)


def test_a_deleted_row_keeps_neither_name_nor_threshold():
    (change,) = plan(snapshot(stock()), [DeleteStock("A", "main", None)]).writes.stock_changed
    assert (change.name, change.low_stock_at, change.deleted) == (None, None, True)
    again = SetStock("A", "main", 1, "new", 2, None)
    (change,) = plan(snapshot(stock(deleted=True)), [again]).writes.stock_changed
    assert (change.name, change.low_stock_at, change.deleted) == ("new", 2, False)


def test_stock_in_use_tells_how_much():
    refused = only(plan(snapshot(stock(held=2)), [DeleteStock("A", "main", None)]))
    assert (refused.code, str(refused)[:7]) == ("stock_in_use", "2 units")


def test_a_reservation_of_another_source_is_not_there():
    asked = Cancel(Caller("them"), of("hold"))
    assert only(plan(snapshot(*held()), [asked])).code == "not_found"
    assert only(plan(snapshot(*held()), [Cancel(Caller("them", True), of("hold"))])).status == 200


def test_a_refusal_names_the_reservation_that_remembers_it():
    for asked, is_replayed in (
        ([reserve("1", A=9)] * 1, [False]),
        ([reserve("1", A=9)] * 2, [False, True]),
    ):
        outcomes = plan(snapshot(stock()), asked).outcomes
        assert [outcome.replayed for outcome in outcomes] == is_replayed
        assert {outcome.fields["reservation_id"] for outcome in outcomes} == {str(of("1"))}


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        (put("A", 1, version=3), "The version is 4."),
        (put("B", 1, version=3), "There is no such stock row."),
        (adjust("1", -9), "The adjustment would take available below zero."),
        (adjust("1", 1, "B"), "A SKU is not stocked at that location."),
        (reserve("1", A=9), "There is not enough stock for this reservation."),
        (reserve("hold", A=1), "The first request with this identity differs in lines."),
        (refund("r", "hold"), "A reservation that is held can't refund."),
        (refund("r", "other"), "There is no such reservation."),
        (
            Confirm(US, of("hold"), (Line("A", "main", 9),)),
            "More units than the reservation holds were to be confirmed.",
        ),
        (partly("r", A=9), "More units than are left of the reservation were to be refunded."),
    ],
)
def test_a_refusal_says_in_a_sentence_what_is_wrong(asked, detail):
    rows = [*held(), sold()[1]]
    assert str(only(plan(snapshot(*rows), [asked]))) == detail
