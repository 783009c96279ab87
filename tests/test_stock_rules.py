"""Changes of stock itself, as pure functions: set, adjust, delete, import."""

import pytest

from db.rows import Stock
from service.commands import AdjustStock, DeleteStock, Done, ImportStock, SetStock
from service.planner import plan
from service.stock import AVAILABLE_MAX
from tests.commands import START
from tests.test_guards import adjust
from tests.test_rules import held, only, snapshot, stock


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


@pytest.mark.parametrize(("delta", "status"), [(0, 201), (1, 400)])
def test_no_row_holds_more_than_the_most_it_may(delta, status):
    planned = plan(snapshot(stock(available=AVAILABLE_MAX - 7)), [adjust("1", 7 + delta)])
    assert only(planned).status == status
    if status == 400:
        assert only(planned).fields["errors"][0]["path"] == "delta"
        assert str(AVAILABLE_MAX) in only(planned).fields["errors"][0]["message"]
        assert not planned.writes


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


def naming_version(version: int, delta: int) -> AdjustStock:
    asked = adjust("1", delta)
    asked.expected_version = version
    return asked


def test_a_new_row_is_written_as_it_was_asked_for_and_answered():
    planned = plan(snapshot(), [SetStock("A", "main", 7, "a lamp", 2, None)])
    row = Stock("A", "main", "a lamp", 7, 0, 2, 1, START, created_at=START)
    assert planned.writes.stock_created == [row]
    assert planned.outcomes == [Done(201, row)]


def test_a_row_that_is_replaced_keeps_the_day_it_was_made():
    planned = plan(snapshot(stock(held=2)), [SetStock("A", "main", 7, "a lamp", 2, 4)])
    row = Stock("A", "main", "a lamp", 7, 2, 2, 5, START)
    assert row.created_at is None
    assert planned.outcomes == [Done(200, row)]


def test_an_adjustment_tells_its_version_and_so_is_bound_to_the_one_it_saw():
    planned = plan(snapshot(stock()), [adjust("1", 2)])
    (change,) = planned.writes.stock_changed
    assert (only(planned).value.version, change.seen_version) == (5, 4)
    assert (change.name, change.low_stock_at, change.deleted) == ("a thing", 3, False)


def test_an_adjustment_below_zero_is_short_of_units_also_when_its_version_is_right():
    refused = only(plan(snapshot(stock()), [naming_version(4, -6)]))
    assert refused.code == "insufficient_stock"
    shortage = {"sku": "A", "location": "main", "requested": 6, "available": 5}
    assert refused.fields == {"shortages": [shortage]}


def test_units_taken_back_from_overdue_holds_change_the_version_an_adjustment_named():
    seen = snapshot(*held(expires_at=START))
    seen.overdue = frozenset({("A", "main")})
    planned = plan(seen, [naming_version(4, -6)])
    assert (only(planned).code, only(planned).fields) == ("version_mismatch", {"current": 5})
    assert [move.kind for move in planned.writes.movements] == ["expire"]
