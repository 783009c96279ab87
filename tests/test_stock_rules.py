"""The rules that set, adjust, delete and import stock, without a database."""

import pytest

from db.rows import Adjustment, ImportJob, Movement, Stock, StockChange
from service.domain.commands import (
    AdjustStock,
    DeleteStock,
    Done,
    ImportStock,
    SetStock,
    verdict_of,
)
from service.domain.planner import Plan, plan
from service.domain.stock import AVAILABLE_MAX
from tests.commands import START
from tests.test_guards import adjust, reserve
from tests.test_rules import held, only, snapshot, stock


def test_an_adjustment_of_other_content_is_a_mismatch():
    seen = snapshot(stock())
    stored = only(plan(snapshot(stock()), [adjust("1", 2)])).value
    seen.answers = {Adjustment: {("us", "1"): stored}}
    problem = only(plan(seen, [adjust("1", 3)])).fields
    assert problem == {"field": "delta", "stored": 2, "sent": 3}


def test_an_import_of_other_bytes_is_a_mismatch():
    first = ImportStock("us", "job", "one", (("B", "main", 5, "b"),))
    done = plan(snapshot(), [first])
    seen = snapshot()
    seen.answers = {ImportJob: {("us", "job"): only(done).value}}
    assert only(plan(seen, [first])).replayed is True
    other = ImportStock("us", "job", "two", ())
    problem = only(plan(seen, [other])).fields
    assert problem == {"field": "content", "stored": "one", "sent": "two"}


@pytest.mark.parametrize(("delta", "verdict"), [(0, "created"), (1, "invalid_request")])
def test_no_adjustment_exceeds_the_upper_bound_of_available(delta, verdict):
    planned = plan(snapshot(stock(available=AVAILABLE_MAX - 7)), [adjust("1", 7 + delta)])
    assert verdict_of(only(planned)) == verdict
    if verdict == "invalid_request":
        assert only(planned).fields["errors"][0]["path"] == "delta"
        assert str(AVAILABLE_MAX) in only(planned).fields["errors"][0]["message"]
        assert not planned.writes


def test_an_imported_row_has_its_time_and_its_name():
    imported = ImportStock("us", "job", "digest", (("B", "main", 5, "b"),))
    planned = plan(snapshot(), [imported])
    (row,) = planned.writes.stock_created
    assert (row.name, row.created_at, row.updated_at, row.version) == ("b", START, START, 1)
    assert only(planned).value == ("us", "job", "digest", 1, 1, 0, START)


def test_a_deleted_row_keeps_neither_name_nor_threshold():
    (change,) = plan(snapshot(stock()), [DeleteStock("A", "main", None)]).writes.stock_changed
    assert (change.name, change.low_stock_at, change.deleted) == (None, None, True)
    again = SetStock("A", "main", 1, "new", 2, None)
    (change,) = plan(snapshot(stock(deleted=True)), [again]).writes.stock_changed
    assert (change.name, change.low_stock_at, change.deleted) == ("new", 2, False)


def test_the_error_of_stock_in_use_names_the_held_units():
    refused = only(plan(snapshot(stock(held=2)), [DeleteStock("A", "main", None)]))
    assert (refused.code, str(refused)[:7]) == ("stock_in_use", "2 units")


def naming_version(version: int, delta: int) -> AdjustStock:
    asked = adjust("1", delta)
    asked.expected_version = version
    return asked


def test_a_new_row_is_written_and_answered_as_requested():
    planned = plan(snapshot(), [SetStock("A", "main", 7, "a lamp", 2, None)])
    row = Stock("A", "main", "a lamp", 7, 0, 2, 1, START, created_at=START)
    assert planned.writes.stock_created == [row]
    assert planned.outcomes == [Done("created", row)]


def test_a_row_that_is_replaced_keeps_its_time_of_creation():
    planned = plan(snapshot(stock(held=2)), [SetStock("A", "main", 7, "a lamp", 2, 4)])
    row = Stock("A", "main", "a lamp", 7, 2, 2, 5, START)
    assert row.created_at is None
    assert planned.outcomes == [Done("changed", row)]


def test_an_adjustment_is_guarded_by_the_version_that_it_saw_because_it_reports_the_next():
    planned = plan(snapshot(stock()), [adjust("1", 2)])
    (change,) = planned.writes.stock_changed
    assert (only(planned).value.version, change.seen_version) == (5, 4)
    assert (change.name, change.low_stock_at, change.deleted) == ("a thing", 3, False)


def test_an_adjustment_below_zero_is_short_of_units_even_if_its_version_is_current():
    refused = only(plan(snapshot(stock()), [naming_version(4, -6)]))
    assert refused.code == "insufficient_stock"
    shortage = {"sku": "A", "location": "main", "requested": 6, "available": 5}
    assert refused.fields == {"shortages": [shortage]}


def test_overdue_holds_that_expire_first_make_the_version_of_an_adjustment_stale():
    seen = snapshot(*held(expires_at=START))
    seen.overdue = frozenset({("A", "main")})
    planned = plan(seen, [naming_version(4, -6)])
    assert (only(planned).code, only(planned).fields) == ("version_mismatch", {"current": 5})
    assert [move.kind for move in planned.writes.movements] == ["expire"]


def only_movement(planned: Plan) -> Movement:
    (movement,) = planned.writes.movements
    return movement


def movement(kind: str, delta: int) -> Movement:
    return Movement("A", "main", 1, kind, delta, 0, None, None, START)


def test_set_and_adjust_each_write_a_movement():
    planned = plan(snapshot(stock()), [SetStock("A", "main", 7, None, None, 4)])
    assert only_movement(planned) == movement("set", 2)
    assert planned.writes.stock_changed[0].seen_version == 4
    assert only_movement(plan(snapshot(stock()), [adjust("1", -2)])) == movement("adjust", -2)


@pytest.mark.parametrize("asked", [naming_version(3, 1), DeleteStock("A", "main", 3)])
def test_a_request_with_a_stale_version_changes_nothing_and_gets_the_current_version(asked):
    planned = plan(snapshot(stock()), [asked])
    assert (only(planned).code, only(planned).fields) == ("version_mismatch", {"current": 4})
    assert not planned.writes


def test_a_delete_that_is_refused_for_its_version_is_guarded_by_the_version_that_it_saw():
    (change,) = plan(
        snapshot(stock()), [reserve("1", A=1), DeleteStock("A", "main", 4)]
    ).writes.stock_changed
    assert change.seen_version == 4


@pytest.mark.parametrize("version", [None, 4])
def test_a_delete_empties_the_row_and_a_second_delete_changes_nothing(version):
    delete = DeleteStock("A", "main", version)
    planned = plan(snapshot(stock()), [delete, delete])
    assert planned.outcomes == [Done("changed", None), Done("unchanged", None)]
    change = StockChange("A", "main", -5, 0, -5, 1, 4, None, None, True, START)
    assert planned.writes.stock_changed == [change]
    assert only_movement(planned) == movement("delete", -5)


def test_a_delete_of_a_row_that_never_existed_changes_nothing():
    planned = plan(snapshot(), [DeleteStock("A", "main", None)])
    assert (planned.outcomes, planned.writes.movements) == ([Done("unchanged", None)], [])


def test_an_import_creates_the_missing_rows_and_changes_no_others():
    names = [(sku, "main", 7, "imported") for sku in "ABCD"]
    asked = ImportStock("us", "job", "digest", tuple(names))
    seen = snapshot(stock("A", 0, deleted=True, low_stock_at=None), stock("B"))
    planned = plan(seen, [asked, asked])
    job = ImportJob("us", "job", "digest", 4, 3, 1, START)
    assert planned.outcomes == [Done("created", job), Done("unchanged", job)]
    assert planned.writes.answers_created == {ImportJob: [job]}
    assert [row.sku for row in planned.writes.stock_created] == ["C", "D"]
    change = StockChange("A", "main", 7, 0, 0, 1, 4, "imported", None, False, START)
    assert planned.writes.stock_changed == [change]
    assert planned.writes.movements[0] == movement("import", 7)
    assert [move.sku for move in planned.writes.movements] == ["A", "C", "D"]


ROWS = tuple((sku, "main", 7, None) for sku in "ABCDE")


def part(first: int, last: int) -> ImportStock:
    return ImportStock("us", "job", "digest", ROWS[first:last], first, len(ROWS))


def test_the_parts_of_an_import_add_up_to_one_answer():
    seen = snapshot(stock("B"))
    first = plan(seen, [part(0, 2)])
    job = ImportJob("us", "job", "digest", 5, 1, 1, START)
    assert (only(first), job.is_done) == (Done("created", job), False)
    assert first.writes.answers_created == {ImportJob: [job]}
    seen.answers = {ImportJob: {("us", "job"): job}}
    rest = plan(seen, [part(2, 5)])
    assert only(rest) == Done("created", job._replace(created=4))
    assert only(rest).value.is_done
    assert rest.writes.answers_created == {}
    assert rest.writes.answers_changed == {ImportJob: [(job, job._replace(created=4))]}


def test_rows_that_were_imported_before_are_skipped():
    seen = snapshot()
    seen.answers = {ImportJob: {("us", "job"): ImportJob("us", "job", "digest", 5, 3, 0, START)}}
    planned = plan(seen, [part(0, 3), part(2, 5)])
    again, rest = planned.outcomes
    assert (again.effect, again.value.rows_done) == ("unchanged", 3)
    assert (rest.effect, rest.value.rows_done) == ("created", 5)
    assert [row.sku for row in planned.writes.stock_created] == ["D", "E"]


def test_a_part_of_an_import_is_not_executed_before_the_parts_before_it():
    planned = plan(snapshot(), [part(2, 5)])
    assert (only(planned).replayed, only(planned).value.rows_done) == (True, 0)
    assert not planned.writes
