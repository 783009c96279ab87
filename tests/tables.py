"""The database as dicts: it loads rows, checks the guards of a plan, and applies its writes.

With it, the planner and its guards are tested on thousands of cases. test_guards.py tests that the
SQL does the same.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from db.rows import (
    Adjustment,
    ImportJob,
    Refund,
    Reservation,
    Snapshot,
    SourceLimit,
    SourceLimitChange,
    Stock,
    Wanted,
    Writes,
)
from service.domain.commands import Outcome, wanted_by
from service.domain.errors import ServiceError
from service.domain.planner import Plan, plan
from service.http.responses import status_of


@dataclass
class Tables:
    stock: dict[Any, Stock] = field(default_factory=dict)
    reservations: dict[Any, Any] = field(default_factory=dict)
    answers: dict[Any, Any] = field(default_factory=dict)
    """The stored answers, by kind and identity."""
    movements: dict[Any, Any] = field(default_factory=dict)
    limits: dict[str, SourceLimit] = field(default_factory=dict)

    def load(self, wanted: Wanted, now: datetime) -> Snapshot:
        """Return only the wanted rows, so that a plan that reads any other row fails."""
        ids = {
            row.id
            for row in self.reservations.values()
            if row.id in wanted.reservations
            or (row.id, row.source) in wanted.own_reservations
            or (row.source, row.seq) in wanted.identities
            or (
                row.state == "held"
                and row.expires_at <= now
                and any(line.key in wanted.overdue for line in row.lines)
            )
        }
        reservations = {id_: self.reservations[id_] for id_ in ids}
        keys = wanted.stock | {line.key for row in reservations.values() for line in row.lines}
        return Snapshot(
            now=now,
            stock={key: self.stock[key] for key in keys & self.stock.keys()},
            reservations=reservations,
            answers={
                kind: {
                    identity: self.answers[kind, identity]
                    for identity in identities
                    if (kind, identity) in self.answers
                }
                for kind, identities in wanted.answers.items()
            },
            overdue=frozenset(wanted.overdue),
            limits=self._limits(wanted.holders | {row.source for row in reservations.values()})
            if wanted.limits
            else None,
        )

    def _limits(self, sources: set[str]) -> dict[str, SourceLimit]:
        return {source: row for source, row in self.limits.items() if source in sources}

    def plan(self, commands: Any, now: datetime) -> Plan:
        """Load and plan as the ledger does: again with overdue holds if the plan lacks them."""
        wanted = wanted_by(commands)
        planned = plan(self.load(wanted, now), commands)
        while planned.lacking:
            wanted.overdue |= planned.lacking
            planned = plan(self.load(wanted, now), commands)
        return planned

    def guards_hold(self, writes: Writes) -> bool:
        """Check the same guards as the SQL of db/ledger/apply.py, and no others."""
        identities = {(row.source, row.seq) for row in self.reservations.values()}
        return (
            all(
                row.id not in self.reservations and (row.source, row.seq) not in identities
                for row in writes.reservations_created
            )
            and all(
                (kind, answer.identity) not in self.answers
                for kind, answers in writes.answers_created.items()
                for answer in answers
            )
            and all(
                self.answers[ImportJob, job.identity].rows_done == seen.rows_done
                for seen, job in writes.answers_changed.get(ImportJob, ())
            )
            and all(
                self.reservations[row.id].version == row.seen_version
                for row in writes.reservations_changed
            )
            and all(row.key not in self.stock for row in writes.stock_created)
            and all(
                self.stock[sku, location].version == version
                for sku, location, version in writes.stock_pinned
            )
            and all(self._change_holds(change) for change in writes.stock_changed)
            and all(self._is_within_limits(change) for change in writes.limits_changed)
        )

    def _is_within_limits(self, change: SourceLimitChange) -> bool:
        row = self.limits[change.source]
        uses = [
            (row.open_holds_max, row.open_holds, change.holds_highest, change.holds_refused),
            (row.held_units_max, row.held_units, change.units_highest, change.units_refused),
        ]
        return all(
            limit is None
            or (
                (highest is None or used + highest <= limit)
                and (refused is None or used + refused > limit)
            )
            for limit, used, highest, refused in uses
        )

    def _change_holds(self, change: Any) -> bool:
        row = self.stock[change.sku, change.location]
        if change.seen_version is None and row.deleted:
            return False
        if change.seen_version not in (None, row.version):
            return False
        return row.available + change.lowest >= 0

    def apply(self, writes: Writes) -> None:
        """Apply the writes; they must never violate a CHECK of the schema."""
        before = {key: row.version for key, row in self.stock.items()}
        self.stock |= {row.key: row for row in writes.stock_created}
        for change in writes.stock_changed:
            row = self.stock[change.sku, change.location]
            row = row._replace(
                available=row.available + change.available_delta,
                held=row.held + change.held_delta,
                version=row.version + change.steps,
                deleted=change.deleted,
                updated_at=change.updated_at,
            )
            if change.seen_version is not None:
                row = row._replace(name=change.name, low_stock_at=change.low_stock_at)
            assert min(row.available, row.held) >= 0
            self.stock[row.key] = row
        for change in writes.limits_changed:
            limit = self.limits[change.source]
            self.limits[change.source] = limit = limit._replace(
                open_holds=limit.open_holds + change.holds_delta,
                held_units=limit.held_units + change.units_delta,
            )
            assert min(limit.open_holds, limit.held_units) >= 0
        for row in writes.reservations_created:
            self.reservations[row.id] = row
        for change in writes.reservations_changed:
            self.reservations[change.id] = self.reservations[change.id]._replace(
                version=change.version,
                state=change.state,
                expires_at=change.expires_at,
                updated_at=change.updated_at,
            )
        for id_, line in writes.lines_changed:
            row = self.reservations[id_]
            lines = tuple(line if old.key == line.key else old for old in row.lines)
            self.reservations[id_] = row._replace(lines=lines)
        for kind, answers in writes.answers_created.items():
            self.answers |= {(kind, answer.identity): answer for answer in answers}
        for seen_job, job in writes.answers_changed.get(ImportJob, ()):
            assert (job.rows_in_all, job.digest) == (seen_job.rows_in_all, seen_job.digest)
            self.answers[ImportJob, job.identity] = job
        for move in writes.movements:
            key = (move.sku, move.location, before.get(move[:2], 0) + move.ordinal)
            assert key not in self.movements
            self.movements[key] = move[3:8]

    def run(self, command: Any, now: datetime) -> Outcome[Any]:
        """Execute one command in a batch of its own."""
        planned = self.plan([command], now)
        assert self.guards_hold(planned.writes)
        self.apply(planned.writes)
        return planned.outcomes[0]

    def copy(self) -> "Tables":
        return Tables(*(dict(getattr(self, table.name)) for table in fields(self)))


def told(outcome: Outcome[Any]) -> tuple[int, Any]:
    """Return the status and the facts that a client gets, in the words of tests/model.py."""
    if isinstance(outcome, ServiceError):
        return outcome.status, {"code": outcome.code, **_facts(outcome)}
    return status_of(outcome), None if outcome.value is None else seen(outcome.value)


def seen(row: Any) -> dict[str, Any]:
    """Return the facts of a row, in the words of tests/model.py."""
    value = row._asdict()
    if isinstance(row, Reservation):
        value["lines"] = {line.key: [*line[2:]] for line in row.lines}
        names = ("id", "source", "seq", "version", "state", "lines", "expires_at", "created_at")
    elif isinstance(row, Refund):
        value["lines"] = {line.key: line.quantity for line in row.lines}
        names = ("reservation_id", "lines", "reason")
    elif isinstance(row, Stock):
        names = ("available", "held", "version", "name", "low_stock_at", "deleted")
    elif isinstance(row, Adjustment):
        names = ("delta", "version")
    else:
        names = ("created", "skipped")
    return {name: value[name] for name in names}


def _facts(error: ServiceError) -> dict[str, Any]:
    facts = dict(error.fields)
    for name in ("allowed", "stored", "sent", "held", "errors"):
        facts.pop(name, None)
    if "shortages" in facts:
        facts["shortages"] = {
            (line["sku"], line["location"]): (line["requested"], line["available"])
            for line in facts["shortages"]
        }
    if "refundable" in facts:
        facts["refundable"] = {
            (line["sku"], line["location"]): line["quantity"] for line in facts["refundable"]
        }
    if "unknown" in facts:
        facts["unknown"] = [(key["sku"], key["location"]) for key in facts["unknown"]]
    if "reservation_id" in facts:
        facts["reservation_id"] = UUID(facts["reservation_id"])
    return facts
