"""Every guard in the SQL that changes stock is listed, with the test that goes red without it.

A guard is a condition, a lock, an order, an `ON CONFLICT`, a `SKIP LOCKED` or a clock. The tests
fail if a guard of the SQL is not listed here, or if the SQL lacks a guard that is listed.
"""

import importlib
import re

import pytest

from db.ledger import apply as writes
from db.ledger import load as reads
from db.ledger.answers import SELECTS
from db.strategies import advisory
from tests.test_guards import (
    BEYOND_HOLDS,
    BEYOND_UNITS,
    INTERLEAVINGS,
    WITHIN_HOLDS,
    WITHIN_UNITS,
)

SQL = {
    **{name: part.sql for name, part in writes.PARTS.items()},
    "VERSIONS": writes.VERSIONS,
    "OVERDUE": reads.OVERDUE.replace(reads.CLOCK, "CLOCK"),
    **{
        name: select
        for selects in (reads.ROWS, *SELECTS.values())
        for name, select in selects.items()
        if "lines" in name
    },
    "LOCK_RESERVATIONS": reads.LOCK_RESERVATIONS.text.replace(reads.FOUND + reads.OWN, ""),
    "LOCK_LIMITS": reads.LOCK_LIMITS.text.replace(reads.FOUND + reads.OWN, ""),
    "LOCK_STOCK": reads.LOCK_STOCK.text.replace(reads.WANTED_KEYS, ""),
    "FREE_RESERVATIONS": reads.FREE_RESERVATIONS.text,
    "FREE_STOCK": reads.FREE_STOCK.text,
    "FREE_LIMITS": reads.FREE_LIMITS.text,
    "advisory": advisory.LOCK.text.replace(reads.WANTED_KEYS, ""),
    "load": reads._statement(reads.Wanted())
    .text.partition("ARRAY(")[0][-40:]
    .replace(reads.CLOCK, "CLOCK"),
    "apply": writes._statement(("stock_pinned",))
    .text.rpartition("written.*")[2]
    .replace(writes.CLOCK, "CLOCK"),
}

GUARDS = re.compile(
    r"ON CONFLICT DO NOTHING|SKIP LOCKED|FOR (?:NO KEY )?UPDATE OF \w+|CLOCK|\{gate\}"
    r"|ORDER BY [\w., ]+?(?= FOR|\)| OFFSET| FROM|$)|OFFSET 0|pg_advisory_xact_lock"
    r"|(?:WHERE|AND|OR) \(?[\w.]+(?: \+ [\w.]+)? (?:<=|>=|=|IS)(?: NOT)? (?:'\w+'|[\w.]+)"
)
IS_A_KEY = re.compile(
    r"(?:WHERE|AND) \w+\.(id|sku|location|digest|reservation_id|refund_id|source|job)"
    r" = \w+\.(\1|id)$"
)

SPARES_WORK = "an earlier part lacks a row, so the batch is rolled back anyway: the gate saves work"
SPARES_ROWS = "the planner checks each hold again: the condition only loads fewer rows"
NEVER_WAITS = "a statement that skips locked rows can't deadlock: the order is for readers only"
PLANNED_SO = "today PostgreSQL plans the same without it; it forbids merging the two SELECTs"

OVERTAKEN = "test_guards:test_without_its_guard_an_overtaken_batch_goes_wrong"
FENCED = "test_distributed_locks:test_without_the_fence_the_late_writer_would_write"
LOCKED = "test_row_locks:test_rows_that_a_verdict_relies_on_stay_locked"
LINES = "test_row_locks:test_without_order_by_a_{}_would_be_read_with_some_of_its_lines"

INVENTORY = {
    "reservation_created": {"ON CONFLICT DO NOTHING": OVERTAKEN},
    "refund_created": {"ON CONFLICT DO NOTHING": OVERTAKEN},
    "adjustment_created": {"ON CONFLICT DO NOTHING": OVERTAKEN},
    "import_job_created": {"ON CONFLICT DO NOTHING": OVERTAKEN},
    "import_job_changed": {"AND import_job.created + import_job.skipped = new.seen": OVERTAKEN},
    "reservation_changed": {"AND reservation.version = new.seen_version": OVERTAKEN},
    "source_limit_changed": {
        "{gate}": SPARES_WORK,
        f"AND {WITHIN_HOLDS}": OVERTAKEN,
        f"AND {WITHIN_UNITS}": OVERTAKEN,
        f"AND {BEYOND_HOLDS}": OVERTAKEN,
        f"AND {BEYOND_UNITS}": OVERTAKEN,
    },
    "stock_created": {"{gate}": SPARES_WORK, "ON CONFLICT DO NOTHING": OVERTAKEN},
    "stock_changed": {
        "{gate}": OVERTAKEN,
        "AND stock.available + new.lowest >= 0": OVERTAKEN,
        "AND (new.seen_version IS NOT NULL": "test_imports:"
        "test_a_deleted_row_counts_as_missing_and_continues_from_its_old_version",
        "OR stock.deleted_at IS NULL": OVERTAKEN,
        "AND (new.seen_version IS NULL": "test_races:"
        "test_of_two_hundred_buyers_of_the_last_seven_units_exactly_seven_get_one",
        "OR stock.version = new.seen_version": OVERTAKEN,
        "AND (new.fence IS NULL": FENCED,
        "OR stock.fence <= new.fence": FENCED,
    },
    "stock_pinned": {
        "{gate}": SPARES_WORK,
        "AND stock.version = new.version": OVERTAKEN,
        "ORDER BY stock.sku, stock.location": "test_row_locks:"
        "test_without_order_by_pinned_rows_would_be_locked_in_another_order",
        "FOR NO KEY UPDATE OF stock": LOCKED,
    },
    "line_created": {"{gate}": OVERTAKEN},
    "line_changed": {"{gate}": SPARES_WORK},
    "refund_line_created": {"{gate}": OVERTAKEN},
    "movement_created": {"{gate}": OVERTAKEN},
    "VERSIONS": {
        "ORDER BY index": "test_row_locks:"
        "test_without_order_by_movements_would_get_the_versions_of_other_rows"
    },
    "OVERDUE": {
        "WHERE reservation.state = 'held'": SPARES_ROWS,
        "AND reservation.expires_at <= CLOCK": SPARES_ROWS,
    },
    "lines": {"ORDER BY reservation_id, sku, location": LINES.format("reservation")},
    "refund_lines": {
        "ORDER BY refund_line.refund_id, sku, location": LINES.format("refund"),
    },
    "LOCK_RESERVATIONS": {
        "ORDER BY reservation.id": "test_row_locks:"
        "test_without_order_by_reservations_would_be_locked_in_another_order",
        "FOR UPDATE OF reservation": LOCKED,
    },
    "LOCK_STOCK": {
        "ORDER BY stock.sku, stock.location": "test_locks:"
        "test_without_order_by_rows_would_be_locked_in_another_order",
        "FOR UPDATE OF stock": LOCKED,
    },
    "LOCK_LIMITS": {
        "ORDER BY source_limit.source": "test_source_limit_locks:"
        "test_without_order_by_limits_would_be_locked_in_another_order",
        "FOR UPDATE OF source_limit": "test_source_limit_locks:"
        "test_the_limits_of_the_sources_stay_locked",
    },
    "FREE_RESERVATIONS": {
        "ORDER BY id": NEVER_WAITS,
        "FOR UPDATE OF reservation": "test_row_locks:"
        "test_a_reservation_that_is_locked_elsewhere_is_found_without_waiting",
        "SKIP LOCKED": "test_row_locks:"
        "test_without_skip_locked_the_look_up_of_reservations_would_wait",
    },
    "FREE_STOCK": {
        "ORDER BY sku, location": NEVER_WAITS,
        "FOR UPDATE OF stock": "test_locks:"
        "test_a_row_that_is_locked_elsewhere_is_found_without_waiting",
        "SKIP LOCKED": "test_locks:test_without_skip_locked_the_look_up_would_wait",
    },
    "FREE_LIMITS": {
        "ORDER BY source": NEVER_WAITS,
        "FOR UPDATE OF source_limit": "test_source_limit_locks:"
        "test_limits_that_are_locked_elsewhere_are_found_without_waiting",
        "SKIP LOCKED": "test_source_limit_locks:"
        "test_without_skip_locked_the_look_up_of_limits_would_wait",
    },
    "advisory": {
        "pg_advisory_xact_lock": "test_row_locks:test_a_named_lock_makes_other_transactions_wait",
        "ORDER BY hash": "test_row_locks:test_named_locks_are_taken_in_the_order_of_their_hashes",
        "OFFSET 0": PLANNED_SO,
    },
    "load": {"CLOCK": "test_locks:test_with_the_time_of_begin_a_plan_would_miss_a_deadline"},
    "apply": {
        "CLOCK": "test_locks:test_with_the_time_of_begin_a_late_confirm_would_succeed",
        "OFFSET 0": PLANNED_SO,
    },
}
"""For each guard, the test that goes red without it, or the reason why none does."""


def guards_of(sql: str) -> set[str]:
    found = (match.group() for match in GUARDS.finditer(" ".join(sql.split())))
    return {guard for guard in found if not IS_A_KEY.match(guard)}


@pytest.mark.parametrize("name", SQL)
def test_every_guard_is_listed(name):
    assert guards_of(SQL[name]) == INVENTORY.get(name, {}).keys()


@pytest.mark.parametrize("name", INVENTORY)
def test_every_listed_test_exists(name):
    for guard, where in INVENTORY[name].items():
        if where == OVERTAKEN:
            assert any(is_mutant(mutant.__name__, name, guard) for mutant in OVERTAKEN_MUTANTS)
        elif where.startswith("test_"):
            module, _, test = where.partition(":")
            assert hasattr(importlib.import_module(f"tests.{module}"), test), where


OVERTAKEN_MUTANTS = [mutant for case in INTERLEAVINGS.values() for mutant in case.mutants]


def is_mutant(mutant: str, part: str, guard: str) -> bool:
    """Whether the mutant removes this guard from this part; its name lacks the AND, OR or WHERE."""
    return mutant == f"{part} without {re.sub('^(AND|OR|WHERE) ', '', guard)}"
