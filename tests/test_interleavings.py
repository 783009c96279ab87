"""Concurrent batches: every order of their steps is explained by some order of the batches."""

import itertools
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import pytest

from db.rows import Line
from service.domain import books
from service.domain.commands import (
    Cancel,
    Command,
    Confirm,
    Expire,
    Extend,
    RefundUnits,
    Reserve,
)
from tests.conftest import fresh_database
from tests.interleavings import Case
from tests.stage import Stage, open_stage, wrong_orders
from tests.test_guards import (
    HELD,
    INTERLEAVINGS,
    ON_CONFLICT,
    SOLD,
    US,
    WITHIN_HOLDS,
    adjust,
    of,
    put,
    refund,
    reserve,
    without,
)

OTHERS = ("version", "pessimistic", "serializable", "advisory")
"""The other strategies that need no server besides PostgreSQL."""


def crossed(seq: str, *skus: str, hold: int | None = None) -> Reserve:
    """A reservation with its lines in this order, which the routes would sort."""
    lines = tuple(Line(sku, "main", 1) for sku in skus)
    return replace(reserve(seq, hold), lines=lines)


def with_id(seq: str) -> Reserve:
    id_ = of("chosen")
    return replace(reserve(seq, A=1), id=id_, effective_id=id_)


def partly(seq: str, units: int) -> RefundUnits:
    return RefundUnits(US, of("sale"), seq, (Line("A", "main", units),), None)


CONFIRM, CANCEL, EXPIRE = Confirm(US, of("hold"), None), Cancel(US, of("hold")), Expire(of("hold"))
PART = Confirm(US, of("hold"), (Line("A", "main", 1),))
TWO_HELD: list[Command] = [put("A", 5), put("B", 5), crossed("one", "A", "B", hold=60)]
TWO_HELD += [crossed("two", "A", "B", hold=60)]

CASES = {
    "two buyers of the last unit": Case([put("A", 1)], [[reserve("1", A=1)], [reserve("2", A=1)]]),
    "two buyers, and units for one of them": Case(
        [put("A", 3)], [[reserve("1", 60, A=2)], [reserve("2", 60, A=2)]]
    ),
    "two buyers, and units for both": Case(
        [put("A", 4)], [[reserve("1", A=2)], [reserve("2", A=2)]]
    ),
    "confirm and expire": Case(HELD, [[CONFIRM], [EXPIRE]], deadline_passes=True),
    "extend and expire": Case(
        HELD, [[Extend(US, of("hold"), 7200)], [EXPIRE]], deadline_passes=True
    ),
    "confirm and a buyer of the overdue units": Case(
        HELD, [[CONFIRM], [reserve("1", A=1)]], deadline_passes=True
    ),
    "cancel and confirm": Case(HELD, [[CANCEL], [CONFIRM]]),
    "confirm and confirm": Case(HELD, [[CONFIRM], [CONFIRM]]),
    "two confirms of different parts": Case(
        [put("A", 5), reserve("hold", 60, A=2)], [[PART], [CONFIRM]]
    ),
    "one request twice": Case([put("A", 5)], [[reserve("1", A=1)], [reserve("1", A=1)]]),
    "one seq with two contents": Case([put("A", 5)], [[reserve("1", A=1)], [reserve("1", A=2)]]),
    "one id with two seqs": Case([put("A", 5)], [[with_id("1")], [with_id("2")]]),
    "one refused request twice": Case([put("A", 0)], [[reserve("1", A=1)], [reserve("1", A=1)]]),
    "A, B and B, A": Case(
        [put("A", 2), put("B", 2)], [[crossed("1", "A", "B")], [crossed("2", "B", "A")]]
    ),
    "A, B and B, A behind a lock": Case(
        [put("A", 2), put("B", 2)],
        [[crossed("1", "A", "B")], [crossed("2", "B", "A")]],
        is_locked="A",
    ),
    "A, B and B, A for one of them": Case(
        [put("A", 1), put("B", 1)], [[crossed("1", "A", "B")], [crossed("2", "B", "A")]]
    ),
    "two holds are confirmed crosswise": Case(
        TWO_HELD,
        [
            [Confirm(US, of("one"), None), Cancel(US, of("two"))],
            [Confirm(US, of("two"), None), Cancel(US, of("one"))],
        ],
    ),
    "the sweeper and a confirm of one of its holds": Case(
        TWO_HELD,
        [[Expire(of("one")), Expire(of("two"))], [Confirm(US, of("two"), None)]],
        deadline_passes=True,
    ),
    "two sweepers": Case(HELD, [[EXPIRE], [EXPIRE]], deadline_passes=True),
    "two refunds of everything": Case(SOLD, [[refund("1")], [refund("2")]]),
    "two partial refunds of more units than were sold": Case(
        [put("A", 3), reserve("sale", A=3)], [[partly("1", 2)], [partly("2", 2)]]
    ),
    "one refund twice": Case(SOLD, [[refund("1")], [refund("1")]]),
    "two holds of the last place": Case(
        [put("A", 5), put("B", 5)],
        [[reserve("1", 60, A=1)], [reserve("2", 60, B=1)]],
        limits={"open_holds_max": 1},
    ),
    "two holds of the last units, and units for one of them": Case(
        [put("A", 5), put("B", 5)],
        [[reserve("1", 60, A=2)], [reserve("2", 60, B=2)]],
        limits={"held_units_max": 3},
    ),
    "a cancel and a hold of its place": Case(
        [put("A", 5), put("B", 5), reserve("hold", 60, A=1)],
        [[Cancel(US, of("hold"))], [reserve("1", 60, B=1)]],
        limits={"open_holds_max": 1},
    ),
    "a batch that is refused for its own hold, and a cancel": Case(
        [put("A", 5), put("B", 5), reserve("hold", 60, A=1)],
        [[reserve("1", 60, B=1), reserve("2", 60, B=1)], [Cancel(US, of("hold"))]],
        limits={"open_holds_max": 2},
    ),
    "an expiry and a hold of its place": Case(
        [put("A", 5), put("B", 5), reserve("hold", 60, A=1)],
        [[Expire(of("hold"))], [reserve("1", 7200, B=1)]],
        deadline_passes=True,
        limits={"open_holds_max": 1},
    ),
    "a buyer and a correction": Case([put("A", 1)], [[reserve("1", A=1)], [adjust("1", -1)]]),
}
ASKED = (
    "two buyers of the last unit",
    "confirm and expire",
    "cancel and confirm",
    "one id with two seqs",
    "A, B and B, A",
    "the sweeper and a confirm of one of its holds",
    "two refunds of everything",
    "two holds of the last place",
    "a batch that is refused for its own hold, and a cancel",
)
"""The cases that every strategy must get right in every order."""

OVERTAKEN = {
    name: Case(one.before, [one.slow, one.fast], limits=one.limits)
    for name, one in INTERLEAVINGS.items()
}
"""The cases that tests/test_guards.py plays in one order: the slow batch is overtaken."""


@pytest.mark.parametrize(
    ("name", "strategy"),
    [(name, "guard") for name in CASES] + list(itertools.product(ASKED, OTHERS)),
)
async def test_every_order_of_the_steps_is_explained_by_an_order_of_the_batches(
    database_url, monkeypatch, name, strategy
):
    async with open_stage(database_url, strategy, monkeypatch) as stage:
        assert [wrong async for wrong in wrong_orders(stage, CASES[name]) if wrong] == []


@pytest.mark.parametrize("name", OVERTAKEN)
async def test_a_batch_that_is_overtaken_in_one_order_is_right_in_every_other_order(
    database_url, monkeypatch, name
):
    async with open_stage(database_url, "guard", monkeypatch) as stage:
        assert [wrong async for wrong in wrong_orders(stage, OVERTAKEN[name]) if wrong] == []


async def test_no_order_is_left_out(database_url, monkeypatch):
    """Two batches of three steps have 20 orders. PostgreSQL prevents six of them if the batches
    change the same row, since the second one waits until the first has committed."""
    apart = Case([put("A", 1), put("B", 1)], [[reserve("1", A=1)], [reserve("2", B=1)]])
    together = CASES["two buyers, and units for both"]
    async with open_stage(database_url, "guard", monkeypatch) as stage:
        assert len([wrong async for wrong in wrong_orders(stage, apart)]) == 20
        assert len([wrong async for wrong in wrong_orders(stage, together)]) == 14


def unsorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: it writes stock rows in the order of the request."""
    monkeypatch.setattr(books, "sorted", lambda rows, key=None: list(rows), raising=False)


def version_of(part: str) -> Callable[[pytest.MonkeyPatch], None]:
    return without(part, "reservation.version = new.seen_version")


MUTANTS = [
    ("two buyers of the last unit", without("stock_changed", "stock.available + new.lowest >= 0")),
    ("cancel and confirm", version_of("reservation_changed")),
    ("confirm and expire", version_of("reservation_changed")),
    ("the sweeper and a confirm of one of its holds", version_of("reservation_changed")),
    ("two refunds of everything", version_of("reservation_changed")),
    (
        "two partial refunds of more units than were sold",
        version_of("reservation_changed"),
    ),
    ("one request twice", without("reservation_created", ON_CONFLICT, "")),
    ("one id with two seqs", without("reservation_created", ON_CONFLICT, "")),
    ("A, B and B, A behind a lock", unsorted),
    (
        "two holds of the last place",
        without("source_limit_changed", WITHIN_HOLDS, "(TRUE"),
    ),
]


@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
async def test_without_its_guard_the_service_is_wrong_in_some_order(
    postgres_url, monkeypatch, name, mutant
):
    async with fresh_database(postgres_url) as url, open_stage(url, "guard", monkeypatch) as stage:
        mutant(monkeypatch)
        assert await goes_wrong(stage, CASES[name])


@pytest.mark.parametrize(
    "name", ["confirm and expire", "the sweeper and a confirm of one of its holds"]
)
async def test_with_the_time_of_begin_a_confirm_succeeds_after_the_deadline_in_some_order(
    postgres_url, monkeypatch, name
):
    """The mutant uses `now()`, which stands still from BEGIN on, not `clock_timestamp()`."""
    frozen = "clock_of_begin()"
    async with (
        fresh_database(postgres_url) as url,
        open_stage(url, "guard", monkeypatch, clock=frozen) as stage,
    ):
        assert "'confirmed'" in str(await goes_wrong(stage, CASES[name]))


async def goes_wrong(stage: Stage, case: Case) -> str | None:
    """The first order in which the answers are wrong, and the reason."""
    async with aclosing(wrong_orders(stage, case)) as orders:
        return await anext((wrong async for wrong in orders if wrong), None)
