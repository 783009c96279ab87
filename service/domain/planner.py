"""Plan: run commands one after another against a snapshot, in memory, and return the net writes.

Pure: no I/O, no clock, no randomness. The outcomes of a batch equal those of its commands sent one
by one, in order; each happens a microsecond after the one before it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from db.rows import Snapshot, StockKey, Writes
from service.domain import holds, refunds, reservations, stock
from service.domain.books import Books
from service.domain.commands import (
    AdjustStock,
    Cancel,
    Command,
    Confirm,
    DeleteStock,
    Expire,
    Extend,
    ImportStock,
    Outcome,
    RefundUnits,
    Reserve,
    SetStock,
)

MICROSECOND = timedelta(microseconds=1)

RULES: Mapping[type[Any], Callable[[Books, Any], Outcome[Any]]] = {
    Reserve: reservations.reserve,
    Confirm: holds.confirm,
    Cancel: holds.cancel,
    Extend: holds.extend,
    Expire: holds.expire,
    RefundUnits: refunds.refund,
    SetStock: stock.set_stock,
    AdjustStock: stock.adjust_stock,
    DeleteStock: stock.delete_stock,
    ImportStock: stock.import_stock,
}

STEPS = (Confirm, Cancel, Extend, RefundUnits)
"""The steps of a reservation that a caller asks for."""


@dataclass(slots=True)
class Plan:
    """An outcome for each command, and the writes.

    When `lacking` is not empty the plan is incomplete: load the overdue holds on those stock rows
    and plan again.
    """

    outcomes: list[Outcome[Any]]
    writes: Writes
    lacking: set[StockKey]


def plan(snapshot: Snapshot, commands: Iterable[Command[Any]], *, pins_rows: bool = False) -> Plan:
    """Return the outcomes of the commands, carried out one after another from `snapshot` on.

    With `pins_rows` every stock row that is changed must still have the version that was seen.
    """
    books = Books(snapshot, pins_rows=pins_rows)
    outcomes = []
    for index, command in enumerate(commands):
        moment = snapshot.now + index * MICROSECOND
        outcome = books.carry_out(RULES[type(command)], command, moment)
        if isinstance(command, STEPS) and command.caller.every_source:
            outcome.owner = books.owner_of(command.id)
        outcomes.append(outcome)
    return Plan(outcomes, books.writes(), books.lacking)
