"""Orders become requests: cancellations are matched, and errors name the line of the file."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from service.replay import orders
from service.replay.orders import match_cancellations, plan_replay
from service.replay.orders_file import OrdersError, find_disagreement, read_orders
from tests.conftest import REAL_ORDERS

SMALL = Path(__file__).parent / "data" / "orders.csv"
needs_real_orders = pytest.mark.skipif(
    not (REAL_ORDERS / "orders.csv").exists(),
    reason="the slice of UCI Online Retail is missing; docs/replay.md describes it",
)


@pytest.fixture
def small():
    return read_orders(SMALL)


@pytest.fixture
def matched(small):
    """The matches in the small file: cancellation line → purchase line."""
    matches, _ = match_cancellations(small)
    return {
        (match.cancellation.invoice, match.cancellation.line): (
            match.purchase.invoice,
            match.purchase.line,
        )
        for match in matches
    }


@pytest.fixture
def unmatched(small):
    """The other cancellation lines of the small file → the reason why they match no purchase."""
    _, found = match_cancellations(small)
    return {(one.cancellation.invoice, one.cancellation.line): one.reason for one in found}


def test_a_cancellation_matches_the_latest_line_with_enough_units_left(matched):
    assert matched["C100005", 1] == ("100001", 3)


def test_one_purchase_line_can_be_cancelled_several_times_until_nothing_is_left(matched, unmatched):
    tray = ("100002", 1)
    assert [matched[line] for line in (("C100004", 1), ("C100006", 1), ("C100006", 2))] == [
        tray
    ] * 3
    assert unmatched["C100007", 1] == "more units than one earlier line has left"


def test_a_purchase_in_the_same_minute_does_not_count_as_earlier(matched):
    assert matched["C100012", 1] == ("100001", 2)


def test_a_later_cancellation_matches_the_second_order(matched):
    assert matched["C100013", 2] == ("100011", 1)


def test_no_cancellation_is_divided_between_purchase_lines(unmatched):
    assert unmatched["C100013", 1] == "more units than one earlier line has left"


def test_a_purchase_of_another_or_an_unnamed_customer_does_not_match(unmatched):
    assert unmatched["C100010", 1] == "no earlier purchase of that SKU by that customer"
    assert unmatched["C100009", 1] == "no customer named"


def test_skus_that_differ_in_case_are_different(small, matched):
    assert matched["C100005", 2] == ("100001", 5)
    seed = plan_replay(small, "p").seed
    assert (seed["15056N"], seed["15056n"]) == (6, 4)


def test_an_invoice_is_one_order_with_its_lines_unchanged(small):
    order = plan_replay(small, "p").orders[0]
    assert order.seq == "p-100001"
    assert [(line.sku, line.quantity) for line in order.lines[:3]] == [
        ("MUG", 3),
        ("MUG", 2),
        ("MUG", 2),
    ]
    assert order.units == {"MUG": 7, "15056N": 6, "15056n": 4}


def test_a_credit_note_is_one_refund_for_each_order_that_it_refers_to(small):
    orders = {order.seq: order for order in plan_replay(small, "p").orders}
    assert [(one.seq, one.units) for one in orders["p-100002"].returns] == [
        ("p-C100004-100002", {"TRAY": 4}),
        ("p-C100006-100002", {"TRAY": 6}),
    ]
    assert [(one.seq, one.units) for one in orders["p-100001"].returns] == [
        ("p-C100005-100001", {"MUG": 2, "15056n": 4}),
        ("p-C100012-100001", {"MUG": 1}),
    ]


def test_a_negative_line_of_an_invoice_that_is_no_cancellation_is_a_write_off(small):
    (one,) = plan_replay(small, "p").write_offs
    assert (one.seq, one.sku, one.delta) == ("p-100008-1", "TRAY", -3)


def test_codes_that_are_not_products_are_treated_as_skus(small):
    seed = plan_replay(small, "p").seed
    assert (seed["POST"], seed["BANK CHARGES"]) == (1, 1)


def test_the_seed_is_exactly_the_stock_that_the_orders_need(small):
    plan = plan_replay(small, "p")
    assert plan.seed["TRAY"] == 10 + 5 + 3
    assert sum(plan.seed.values()) == plan.units_needed


def test_scarce_stock_still_covers_every_write_off(small):
    assert plan_replay(small, "p", stock_share=0.5).seed["TRAY"] == 3 + 7
    assert plan_replay(small, "p", stock_share=0).seed["TRAY"] == 3


def test_an_invoice_that_is_too_long_for_a_reservation_is_split(small, monkeypatch):
    monkeypatch.setattr(orders, "LINES_MAX", 3)
    plan = plan_replay(small, "p")
    assert [order.seq for order in plan.orders[:2]] == ["p-100001", "p-100001+2"]
    assert [one.seq for one in plan.orders[1].returns] == ["p-C100005-100001+2"]


def write(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "orders.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


HEADER = "invoice,line,sku,quantity,ordered_at,customer"
GOOD = "1,1,A,2,2026-01-05T09:00:00Z,7"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["invoice,line,sku"], "line 1: there is no column quantity, ordered_at, customer"),
        ([HEADER, GOOD, "1,2,A,two,2026-01-05T09:00:00Z,7"], "line 3: quantity 'two' is not a"),
        ([HEADER, GOOD, "1,2,A,0,2026-01-05T09:00:00Z,7"], "line 3: quantity is 0"),
        ([HEADER, "C1,1,A,2,2026-01-05T09:00:00Z,7"], "line 2: quantity is above 0"),
        ([HEADER, "1,1,A,2,yesterday,7"], "line 2: ordered_at 'yesterday' is not a time"),
        ([HEADER, "1,1,,2,2026-01-05T09:00:00Z,7"], "line 2: sku is empty"),
        ([HEADER, GOOD, "", "1,2"], "line 4: it has 2 fields, but the header has 6"),
        ([HEADER, GOOD, GOOD], "line 3: invoice 1 line 1 is on line 2 already"),
        ([HEADER, '1,1,"A'], "line 2: unexpected end of data"),
        ([HEADER], "has no orders below its header"),
        ([], "line 1: there is no column invoice"),
    ],
)
def test_an_error_in_a_file_names_its_line(tmp_path, lines, message):
    with pytest.raises(OrdersError, match=r"^orders\.csv ") as error:
        read_orders(write(tmp_path, *lines))
    assert message in str(error.value)


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_bytes(f"{HEADER}\n1,1,\xa3".encode("latin-1"))
    with pytest.raises(OrdersError, match="is not UTF-8"):
        read_orders(file)


def test_the_error_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(OrdersError, match=r"none\.csv can't be read: No such file"):
        read_orders(tmp_path / "none.csv")


@needs_real_orders
def test_the_rule_finds_exactly_the_real_matches():
    matches, unmatched = match_cancellations(read_orders(REAL_ORDERS / "orders.csv"))
    with (REAL_ORDERS / "matches.csv").open(newline="") as stream:
        expected = [tuple(row.values()) for row in csv.DictReader(stream)]
    found = [
        (
            match.cancellation.invoice,
            str(match.cancellation.line),
            match.purchase.invoice,
            str(match.purchase.line),
            match.purchase.sku,
            match.purchase.customer,
            str(-match.cancellation.quantity),
            str(match.purchase.quantity),
        )
        for match in matches
    ]
    assert found == expected
    assert len(found) == 295
    assert len(unmatched) == 410 - 295


@needs_real_orders
def test_matches_are_compared_with_those_of_a_file():
    matches, _ = match_cancellations(read_orders(REAL_ORDERS / "orders.csv"))
    file = REAL_ORDERS / "matches.csv"
    assert find_disagreement(file, matches) is None
    assert "holdfast found no match" in str(find_disagreement(file, matches[1:]))
    wrong = replace(matches[0], purchase=replace(matches[0].purchase, line=99))
    assert "line 99" in str(find_disagreement(file, [wrong, *matches[1:]]))


@needs_real_orders
def test_the_real_orders_have_the_known_figures():
    plan = plan_replay(read_orders(REAL_ORDERS / "orders.csv"), "p")
    assert plan.lines == 10_023
    assert len(plan.orders) == 575
    assert max(len(order.lines) for order in plan.orders) == 620
    assert len(plan.write_offs) == 70
    hottest: Counter[str] = Counter()
    for order in plan.orders:
        hottest.update(order.units.keys())
    assert hottest.most_common(1)[0][0] == "85123A"
    assert {"15056N", "15056n", "DOT", "POST"} <= plan.seed.keys()
