"""The books as a batch changes them: rows, reservations and the ledger, over a snapshot.

Every rule changes stock through `Books.move`, which writes the ledger's line in the same breath.
What a verdict relied on goes into the writes as a guard (see `db.rows.StockChange`):

- an accepted take holds while `available + lowest >= 0`, whatever else happened to the row;
- a refusal about a row that the batch also changes, and every absolute write, pins the version;
- a refusal about rows the batch leaves alone was true at the snapshot, and that is its moment.
"""

from collections.abc import Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from db.rows import (
    Adjustment,
    Identity,
    ImportJob,
    ImportProgress,
    Key,
    Line,
    Movement,
    Refund,
    Reservation,
    ReservationChange,
    Snapshot,
    Stock,
    StockChange,
    Writes,
)
from db.vocabulary import State
from service.domain.errors import UnknownSku


class Row:
    """A stock row as the batch changes it."""

    __slots__ = (
        "available", "available_delta", "created_at", "deleted", "held", "held_delta", "is_new",
        "location", "low_stock_at", "lowest", "name", "pinned", "seen_version", "sku", "steps",
        "updated_at",
    )  # fmt: skip

    def __init__(self, seen: Stock, *, is_new: bool = False) -> None:
        self.sku = seen.sku
        self.location = seen.location
        self.name = seen.name
        self.available = seen.available
        self.held = seen.held
        self.low_stock_at = seen.low_stock_at
        self.seen_version = seen.version
        self.deleted = seen.deleted
        self.updated_at = seen.updated_at
        self.created_at = seen.updated_at if is_new else None
        self.is_new = is_new
        self.pinned = False
        self.steps = 0
        self.available_delta = 0
        self.held_delta = 0
        self.lowest = 0

    @property
    def key(self) -> Key:
        """The row's primary key."""
        return self.sku, self.location

    @property
    def version(self) -> int:
        """The version after the changes so far."""
        return self.seen_version + self.steps

    def stock(self) -> Stock:
        """Return the row as it is now."""
        return Stock(
            self.sku, self.location, self.name, self.available, self.held, self.low_stock_at,
            self.version, self.updated_at, self.deleted, self.created_at,
        )  # fmt: skip

    def change(self) -> StockChange:
        """Return the guarded change that makes the row as it is now."""
        return StockChange(
            self.sku, self.location, self.available_delta, self.held_delta, self.lowest,
            self.steps, self.seen_version if self.pinned else None, self.name, self.low_stock_at,
            self.deleted, self.updated_at,
        )  # fmt: skip


class Books:
    """The state of a plan in the making."""

    def __init__(self, snapshot: Snapshot, *, pins_rows: bool = False) -> None:
        self.snapshot = snapshot
        self.pins_rows = pins_rows
        self.rows: dict[Key, Row] = {}
        self.reservations: dict[UUID, Reservation] = dict(snapshot.reservations)
        self.identities: dict[Identity, UUID] = {
            (row.source, row.seq): row.id for row in snapshot.reservations.values()
        }
        self.refunds: dict[Identity, Refund] = dict(snapshot.refunds)
        self.adjustments: dict[Identity, Adjustment] = dict(snapshot.adjustments)
        self.import_jobs: dict[tuple[str, str], ImportJob] = dict(snapshot.import_jobs)
        self.touched: set[UUID] = set()
        self.movements: list[Movement] = []
        self.reliances: list[list[Key]] = []
        self.apply_before: datetime | None = None
        self.lacking: set[Key] = set()
        self.overdue = _overdue_holds(snapshot)

    def row(self, key: Key) -> Row | None:
        """Return the row as the batch has changed it; None when there never was one."""
        row = self.rows.get(key)
        if row is None:
            seen = self.snapshot.stock.get(key)
            if seen is not None:
                row = self.rows[key] = Row(seen)
                row.pinned = self.pins_rows
        return row

    def new_row(self, key: Key, at: datetime) -> Row:
        """Add a row that the batch creates, empty and at version 0."""
        row = self.rows[key] = Row(Stock(*key, None, 0, 0, None, 0, at), is_new=True)
        return row

    def unknown(self, keys: list[Key]) -> UnknownSku | None:
        """Return the refusal that lists the keys without a stock row, if there are any."""
        unknown = [
            {"sku": key[0], "location": key[1]}
            for key in keys
            if (row := self.row(key)) is None or row.deleted
        ]
        if not unknown:
            return None
        self.reliances.append(keys)
        others = f", nor are {len(unknown) - 1} others" if unknown[1:] else ""
        detail = "{sku} is not stocked at {location}".format(**unknown[0])
        return UnknownSku(f"{detail}{others}.", unknown=unknown)

    def shortages(self, lines: tuple[Line, ...]) -> list[dict[str, Any]]:
        """Return an entry for each line that asks for more than is available."""
        return [
            {
                "sku": line.sku,
                "location": line.location,
                "requested": line.quantity,
                "available": row.available,
            }
            for line in lines
            if (row := self.row(line.key)) is not None and line.quantity > row.available
        ]

    def move(
        self,
        key: Key,
        kind: str,
        available_delta: int,
        held_delta: int,
        at: datetime,
        reservation: Reservation | None = None,
    ) -> None:
        """Change a stock row and write the ledger's line about it: never one without the other."""
        row = self.row(key)
        if row is None:
            raise AssertionError(f"stock row {key} was moved before it was looked up")
        row.available += available_delta
        row.held += held_delta
        row.available_delta += available_delta
        row.held_delta += held_delta
        row.lowest = min(row.lowest, row.available_delta)
        row.steps += 1
        row.updated_at = at
        if row.available < 0 or row.held < 0:
            raise AssertionError(f"a plan took stock row {key} below zero")
        self.movements.append(
            Movement(
                *key,
                row.steps,
                kind,
                available_delta,
                held_delta,
                None if reservation is None else reservation.id,
                None if reservation is None else reservation.version,
                at,
            )
        )

    def keep(self, reservation: Reservation) -> None:
        """Keep a reservation that is new or has changed, to be written."""
        self.reservations[reservation.id] = reservation
        self.touched.add(reservation.id)

    def writes(self) -> Writes:
        """Return the net writes with their guards, in the order rows are locked in."""
        writes = Writes(
            refunds_created=_added(self.refunds, self.snapshot.refunds),
            adjustments_created=_added(self.adjustments, self.snapshot.adjustments),
            import_jobs_created=_added(self.import_jobs, self.snapshot.import_jobs),
            import_jobs_changed=_progress(self.import_jobs, self.snapshot.import_jobs),
            movements=self.movements,
            apply_before=self.apply_before,
        )
        for id_ in sorted(self.touched, key=attrgetter("int")):  # as UUIDs compare, but in C
            self._write_reservation(writes, self.reservations[id_])
        self._pin()
        for _, row in sorted(self.rows.items()):
            if row.is_new and row.steps:
                writes.stock_created.append(row.stock())
            elif row.steps:
                writes.stock_changed.append(row.change())
            elif row.pinned and not row.is_new:
                writes.stock_pinned.append((row.sku, row.location, row.seen_version))
        return writes

    def _write_reservation(self, writes: Writes, reservation: Reservation) -> None:
        seen = self.snapshot.reservations.get(reservation.id)
        if seen is None:
            writes.reservations_created.append(reservation)
            return
        writes.reservations_changed.append(
            ReservationChange(
                reservation.id,
                seen.version,
                reservation.version,
                reservation.state,
                reservation.expires_at,
                reservation.updated_at,
            )
        )
        writes.lines_changed += [
            (reservation.id, line)
            for line, before in zip(reservation.lines, seen.lines, strict=True)
            if line != before
        ]

    def _pin(self) -> None:
        """Pin every row that a refusal relied on, where the batch changes one of them."""
        for keys in self.reliances:
            rows = [row for key in keys if (row := self.rows.get(key)) is not None]
            if any(row.steps for row in rows):
                for row in rows:
                    row.pinned = True


def _overdue_holds(snapshot: Snapshot) -> dict[Key, list[UUID]]:
    holds: dict[Key, list[UUID]] = {}
    if snapshot.overdue:
        for reservation in sorted(snapshot.reservations.values()):
            if reservation.state == State.HELD:
                for line in reservation.lines:
                    holds.setdefault(line.key, []).append(reservation.id)
    return holds


def _added(after: Mapping[Any, Any], before: Mapping[Any, Any]) -> list[Any]:
    if len(after) == len(before):
        return []
    return [value for key, value in sorted(after.items()) if key not in before]


def _progress(
    after: Mapping[Identity, ImportJob], before: Mapping[Identity, ImportJob]
) -> list[ImportProgress]:
    return [
        ImportProgress(*key, seen.rows_done, after[key].created, after[key].skipped)
        for key, seen in sorted(before.items())
        if after[key] != seen
    ]
