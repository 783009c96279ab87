"""Every guard works, and every guard is needed: without it the same interleaving goes wrong.

Each interleaving is exact: a slow batch reads and plans, a fast batch runs completely, and then the
slow batch writes. With its guards the write is a conflict, and a new plan gives the right answers.
A mutant lacks a guard. It commits wrong answers, or only a CHECK or a key stops it, with an error
that has no meaning for a client.

These tests are about the strategy `guard`. The other strategies write with the same statement and
more guards, or let no fast batch in between (test_strategies.py, test_distributed_locks.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from asyncpg import IntegrityConstraintViolationError

from db.ledger import apply as writes
from db.ledger.apply import apply
from db.rows import Line, SourceLimitChange
from db.session.database import Conflict, Database, Transaction
from db.strategies.guard import Guard
from service.domain import books
from service.domain.commands import (
    AdjustStock,
    Caller,
    Cancel,
    Command,
    Confirm,
    DeleteStock,
    Extend,
    ImportStock,
    RefundUnits,
    Reserve,
    SetStock,
    wanted_by,
)
from service.domain.identifiers import reservation_id
from service.domain.planner import Plan, plan
from service.engine.ledger import Ledger
from service.engine.source_limits import SourceLimits
from tests.conftest import fresh_database
from tests.tables import told

US = Caller("us")


def reserve(seq: str, hold: int | None = None, **lines: int) -> Reserve:
    rows = tuple(Line(sku, "main", quantity) for sku, quantity in sorted(lines.items()))
    return Reserve("us", seq, None, rows, hold, {}, reservation_id("us", seq))


def put(sku: str, available: int, version: int | None = None) -> SetStock:
    return SetStock(sku, "main", available, None, None, version)


def adjust(seq: str, delta: int, sku: str = "A") -> AdjustStock:
    return AdjustStock("us", seq, sku, "main", delta, "count", None)


def of(seq: str) -> Any:
    return reservation_id("us", seq)


def refund(seq: str, sale: str = "sale", lines: tuple[Line, ...] | None = None) -> RefundUnits:
    return RefundUnits(US, of(sale), seq, lines, None)


DELETE = DeleteStock("A", "main", None)
HELD = [put("A", 1), reserve("hold", 60, A=1)]
SOLD = [put("A", 1), reserve("sale", A=1)]
IMPORT = ImportStock("us", "job", "digest", (("A", "main", 5, None),))
IMPORTED = replace(IMPORT, rows_in_all=2)
REST = replace(IMPORTED, rows=(("B", "main", 5, None),), first=1)


@dataclass
class Interleaving:
    """A slow batch and the fast batch that overtakes it.

    `before` runs first. `notices` is the part of the statement whose guard finds the conflict. Each
    of the `mutants` lacks a guard that the slow batch needs.
    """

    before: list[Command]
    slow: list[Command]
    fast: list[Command]
    notices: str
    mutants: list[Callable[[pytest.MonkeyPatch], None]]
    limits: dict[str, int] = field(default_factory=dict)
    """The limits of the source, set before everything else."""


def without(part: str, guard: str, instead: str = "TRUE") -> Callable[[pytest.MonkeyPatch], None]:
    """A mutant that lacks one guard of one part of the statement."""

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        original = writes.PARTS[part]
        assert guard in original.sql
        mutant = replace(original, sql=original.sql.replace(guard, instead))
        monkeypatch.setitem(writes.PARTS, part, mutant)
        monkeypatch.setattr(writes, "_STATEMENTS", {})

    mutate.__name__ = f"{part} without {guard}"
    return mutate


def careless_net_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that does not guard units which the batch takes and gives back."""
    change = books.StockRow.change
    monkeypatch.setattr(
        books.StockRow,
        "change",
        lambda row: change(row)._replace(lowest=min(0, row.available_delta)),
    )


def careless_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant in which a refusal does not pin the rows that it relies on."""
    monkeypatch.setattr(books.Books, "_pin", lambda self: None)


def careless_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant in which an absolute change does not check the version that it has seen."""
    change = books.StockRow.change
    monkeypatch.setattr(
        books.StockRow, "change", lambda row: change(row)._replace(seen_version=None)
    )


def careless_net_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that does not guard a hold which the batch opens and ends."""
    change = books.SourceUse.change

    def net(use: books.SourceUse) -> SourceLimitChange:
        changed = change(use)
        return changed._replace(
            holds_highest=changed.holds_delta, units_highest=changed.units_delta
        )

    monkeypatch.setattr(books.SourceUse, "change", net)


ON_CONFLICT = "ON CONFLICT DO NOTHING"
WITHIN_HOLDS = "(source_limit.open_holds + new.holds_highest <= source_limit.open_holds_max"
WITHIN_UNITS = "(source_limit.held_units + new.units_highest <= source_limit.held_units_max"
BEYOND_HOLDS = "(source_limit.open_holds + new.holds_refused <= source_limit.open_holds_max"
BEYOND_UNITS = "(source_limit.held_units + new.units_refused <= source_limit.held_units_max"

INTERLEAVINGS = {
    "the last unit is taken": Interleaving(
        [put("A", 1)],
        [reserve("1", A=1)],
        [reserve("2", A=1)],
        "stock_changed",
        [without("stock_changed", "stock.available + new.lowest >= 0")],
    ),
    "units that the slow batch takes and gives back are taken by the fast batch": Interleaving(
        [put("A", 5)],
        [reserve("1", 60, A=5), Cancel(US, of("1"))],
        [reserve("2", A=3)],
        "stock_changed",
        [careless_net_take, without("stock_changed", "stock.available + new.lowest >= 0")],
    ),
    "a row changes before it is set at the version that was seen": Interleaving(
        [put("A", 5)],
        [put("A", 7, version=1)],
        [adjust("1", -2)],
        "stock_changed",
        [without("stock_changed", "stock.version = new.seen_version"), careless_writing],
    ),
    "a refusal relies on a row that the batch changes": Interleaving(
        [put("A", 5)],
        [reserve("1", A=1), reserve("2", A=9)],
        [adjust("1", 20)],
        "stock_changed",
        [without("stock_changed", "stock.version = new.seen_version"), careless_refusal],
    ),
    "a refusal relies on a row that the batch does not change": Interleaving(
        [put("A", 5), put("B", 0)],
        [reserve("1", A=1), reserve("2", A=1, B=1)],
        [adjust("1", 20, "B")],
        "stock_pinned",
        [without("stock_pinned", "stock.version = new.version"), careless_refusal],
    ),
    "a refund to a row that was deleted": Interleaving(
        SOLD,
        [refund("1")],
        [DELETE],
        "stock_changed",
        [without("stock_changed", "stock.deleted_at IS NULL")],
    ),
    "a hold is cancelled before it is confirmed": Interleaving(
        [*HELD, put("B", 1), reserve("other", 60, B=1)],
        [Confirm(US, of("hold"), None)],
        [Cancel(US, of("hold"))],
        "reservation_changed",
        [without("reservation_changed", "reservation.version = new.seen_version")],
    ),
    "a hold is confirmed before it is extended": Interleaving(
        HELD,
        [Extend(US, of("hold"), 90)],
        [Confirm(US, of("hold"), None)],
        "reservation_changed",
        [without("reservation_changed", "reservation.version = new.seen_version")],
    ),
    "a hold is confirmed twice": Interleaving(
        HELD,
        [Confirm(US, of("hold"), None)],
        [Confirm(US, of("hold"), None)],
        "reservation_changed",
        [without("stock_changed", "{gate}")],
    ),
    "a request comes twice": Interleaving(
        [put("A", 5)],
        [reserve("1", A=1)],
        [reserve("1", A=1)],
        "reservation_created",
        [
            without("reservation_created", ON_CONFLICT, ""),
            without("line_created", "{gate}"),
            without("movement_created", "{gate}"),
        ],
    ),
    "a refusal comes twice": Interleaving(
        [put("A", 0)],
        [reserve("1", A=1)],
        [reserve("1", A=1), adjust("1", 5)],
        "reservation_created",
        [without("reservation_created", ON_CONFLICT, "")],
    ),
    "a refund comes twice": Interleaving(
        SOLD,
        [refund("1")],
        [refund("1")],
        "refund_created",
        [
            without("refund_created", ON_CONFLICT, ""),
            without("refund_line_created", "{gate}"),
        ],
    ),
    "an adjustment comes twice": Interleaving(
        [put("A", 5)],
        [adjust("1", 2)],
        [adjust("1", 2)],
        "adjustment_created",
        [without("adjustment_created", ON_CONFLICT, "")],
    ),
    "an import comes twice": Interleaving(
        [],
        [IMPORT],
        [IMPORT],
        "import_job_created",
        [without("import_job_created", ON_CONFLICT, "")],
    ),
    "a part of an import comes twice": Interleaving(
        [IMPORTED, put("B", 1)],
        [REST],
        [REST],
        "import_job_changed",
        [without("import_job_changed", "import_job.created + import_job.skipped = new.seen")],
    ),
    "a row is created twice": Interleaving(
        [],
        [put("A", 5)],
        [put("A", 7)],
        "stock_created",
        [without("stock_created", ON_CONFLICT, "")],
    ),
    "the last hold that a limit allows is taken": Interleaving(
        [put("A", 5), put("B", 5)],
        [reserve("1", 60, A=1)],
        [reserve("2", 60, B=1)],
        "source_limit_changed",
        [without("source_limit_changed", WITHIN_HOLDS, "(TRUE")],
        limits={"open_holds_max": 1},
    ),
    "the last units that a limit allows are taken": Interleaving(
        [put("A", 5), put("B", 5)],
        [reserve("1", 60, A=3)],
        [reserve("2", 60, B=3)],
        "source_limit_changed",
        [without("source_limit_changed", WITHIN_UNITS, "(TRUE")],
        limits={"held_units_max": 5},
    ),
    "a hold that the slow batch opens and ends is beyond the limit by then": Interleaving(
        [put("A", 5), put("B", 5)],
        [reserve("1", 60, A=1), Cancel(US, of("1"))],
        [reserve("2", 60, B=1)],
        "source_limit_changed",
        [careless_net_hold, without("source_limit_changed", WITHIN_HOLDS, "(TRUE")],
        limits={"open_holds_max": 1},
    ),
    "a hold is refused for another hold of its batch, and a third hold ends": Interleaving(
        [put("A", 5), put("B", 5), reserve("hold", 60, B=1)],
        [reserve("1", 60, A=1), reserve("2", 60, A=1)],
        [Cancel(US, of("hold"))],
        "source_limit_changed",
        [without("source_limit_changed", BEYOND_HOLDS, "(FALSE")],
        limits={"open_holds_max": 2},
    ),
    "units are refused for other units of their batch, and a third hold ends": Interleaving(
        [put("A", 5), put("B", 5), reserve("hold", 60, B=2)],
        [reserve("1", 60, A=2), reserve("2", 60, A=2)],
        [Cancel(US, of("hold"))],
        "source_limit_changed",
        [without("source_limit_changed", BEYOND_UNITS, "(FALSE")],
        limits={"held_units_max": 5},
    ),
    "a refusal for lack of stock found room that another hold takes": Interleaving(
        [put("A", 1), put("B", 5)],
        [reserve("1", A=1), reserve("2", 60, A=1)],
        [reserve("3", 60, B=1)],
        "source_limit_changed",
        [careless_refusal, without("source_limit_changed", WITHIN_HOLDS, "(TRUE")],
        limits={"open_holds_max": 1},
    ),
}


async def begin(database: Database, commands: list[Command]) -> tuple[Transaction, Plan]:
    """Read and plan in a transaction that stays open."""
    transaction = Transaction(await database.engine.connect())
    await transaction.begin()
    snapshot = await Guard().load(transaction.connection, wanted_by(commands), locked=False)
    return transaction, plan(snapshot, commands)


async def end(transaction: Transaction) -> None:
    """Roll the transaction back, unless it has committed, and close its connection."""
    await transaction.roll_back()
    await transaction.connection.close()


async def overtaken(database: Database, case: Interleaving) -> tuple[Any, Any]:
    """Return the answers of the slow batch and the right answers; raise the error of its write."""
    ledger = Ledger(database, Guard())
    if case.limits:
        await SourceLimits(database).put("us", case.limits)
    for command in case.before:
        assert told((await ledger.execute([command]))[0])[0] in (200, 201)
    slow, planned = await begin(database, case.slow)
    try:
        await ledger.execute(case.fast)
        fresh, right = await begin(database, case.slow)
        await end(fresh)
        await apply(slow, planned.writes)
        await slow.commit()
    finally:
        await end(slow)
    return [told(each) for each in planned.outcomes], [told(each) for each in right.outcomes]


@pytest.mark.parametrize("name", INTERLEAVINGS)
async def test_an_overtaken_batch_gets_a_conflict(database, name):
    case = INTERLEAVINGS[name]
    with pytest.raises(Conflict) as conflict:
        await overtaken(database, case)
    assert conflict.value.kind == case.notices


@pytest.mark.parametrize(
    ("name", "mutant"),
    [(name, mutant) for name, case in INTERLEAVINGS.items() for mutant in range(len(case.mutants))],
)
async def test_without_its_guard_an_overtaken_batch_goes_wrong(
    postgres_url, monkeypatch, name, mutant
):
    case = INTERLEAVINGS[name]
    case.mutants[mutant](monkeypatch)
    async with fresh_database(postgres_url) as url:
        database = Database(url, pool_size=4)
        try:
            answers, right = await overtaken(database, case)
            assert answers != right
        except IntegrityConstraintViolationError:
            pass  # only a CHECK or a key stopped it
        finally:
            await database.close()
