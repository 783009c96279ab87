"""The books: the only way in which a rule reads and changes rows, so that no guard is forgotten.

A verdict is only as good as the rows it was made from, and other transactions may change those
before the plan is applied. So each method here also notes the guard that its use of a row needs:

- `move`, a relative change, holds while `available + lowest >= 0` and the row is not deleted,
  even if other transactions have changed the row;
- `put`, `adjust` and `delete`, absolute changes, hold only at the version that was seen;
- a refusal relies on every row that its rule looked at. If the batch changes one of them, all of
  them must still have the versions that were seen. If it changes none of them, there is no guard:
  the refusal was true when the snapshot was taken;
- `step`, a new state of a reservation, holds only at the version that was seen; a step out of a
  hold, other than `expire`, holds only before its deadline;
- `create` and `remember` hold only if nothing is stored under the identity yet;
- `create` and `step` also change the use of the source's limits. A new hold holds
  only while the use is within the limits, even if other transactions have changed it. `excess`, a
  refusal, holds only while the use is beyond them, if it relies on holds of its own batch.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from db.rows import (
    AnyAnswer,
    Identity,
    Line,
    Movement,
    Reservation,
    ReservationChange,
    Snapshot,
    SourceLimit,
    Stock,
    StockKey,
    StoredAnswer,
    Writes,
)
from db.vocabulary import MovementKind, State, Tracking
from service.domain.errors import ServiceError
from service.domain.lifecycle import Step, is_overdue, state_after
from service.domain.quantities import units_of
from service.domain.source_use import Excess, SourceUse
from service.domain.stock_row import StockRow, StockView

AnyOutcome = TypeVar("AnyOutcome")
AnyCommand = TypeVar("AnyCommand")


class Books:
    """Stock, reservations, stored answers and the ledger, as the batch has changed them so far."""

    def __init__(self, snapshot: Snapshot, *, pins_rows: bool = False) -> None:
        self.at: datetime
        """The moment of the command that is being carried out."""
        self.lacking: set[StockKey] = set()
        """The stock rows whose overdue holds a rule needs, but which were not loaded."""
        self._snapshot = snapshot
        self._pins_rows = pins_rows
        self._rows: dict[StockKey, StockRow] = {}
        self._reservations: dict[UUID, Reservation] = dict(snapshot.reservations)
        self._ids: dict[Identity, UUID] = {
            (row.source, row.seq): row.id for row in snapshot.reservations.values()
        }
        self._stepped: set[UUID] = set()
        self._answers: dict[type[Any], dict[Identity, Any]] = {}
        self._movements: list[Movement] = []
        self._looked: list[StockKey] = []
        self._checked: SourceUse | None = None
        self._reliances: list[tuple[list[StockKey], SourceUse | None]] = []
        self._uses: dict[str, SourceUse] = {}
        self._apply_before: datetime | None = None
        self._holds = _holds_by_row(snapshot)

    def carry_out(
        self,
        rule: Callable[["Books", AnyCommand], AnyOutcome],
        command: AnyCommand,
        at: datetime,
    ) -> AnyOutcome:
        """Return a rule's outcome for a command; a refusal relies on the rows that it looked at."""
        self.at = at
        self._checked = None
        if self._looked:
            self._looked = []
        outcome = rule(self, command)
        if self._looked and isinstance(outcome, ServiceError):
            self._reliances.append((self._looked, self._checked))
        return outcome

    def look(self, key: StockKey) -> StockView | None:
        """Return the stock row as the batch has changed it; None when there is none."""
        self._looked.append(key)
        row = self._row(key)
        return None if row is None or row.deleted else row

    def move(
        self,
        key: StockKey,
        kind: MovementKind,
        available_delta: int,
        held_delta: int,
        reservation: Reservation | None = None,
    ) -> None:
        """Change a stock row relative to its content, and write the ledger's line about it.

        The row and the ledger never change without each other.
        """
        row = self._row(key)
        if row is None:
            raise AssertionError(f"a plan moves stock row {key}, which was not loaded")
        row.available += available_delta
        row.held += held_delta
        row.available_delta += available_delta
        row.held_delta += held_delta
        row.lowest = min(row.lowest, row.available_delta)
        row.steps += 1
        row.updated_at = self.at
        if row.available < 0 or row.held < 0:
            raise AssertionError(
                f"a plan takes stock row {(row.sku, row.location)} below zero units"
            )
        self._movements.append(
            Movement(
                row.sku,
                row.location,
                row.steps,
                kind,
                available_delta,
                held_delta,
                None if reservation is None else reservation.id,
                None if reservation is None else reservation.version,
                self.at,
            )
        )

    def put(
        self,
        key: StockKey,
        kind: MovementKind,
        available: int,
        *,
        name: str | None,
        low_stock_at: int | None,
    ) -> Stock:
        """Set a stock row's units, name and threshold, create it if it is missing; return it."""
        row = self._row(key)
        if row is None:
            row = self._rows[key] = StockRow(Stock(*key, None, 0, 0, None, 0, self.at), is_new=True)
        row.pinned, row.deleted = True, False
        row.name, row.low_stock_at = name, low_stock_at
        self.move(key, kind, available - row.available, 0)
        return row.stock()

    def adjust(self, key: StockKey, delta: int) -> int:
        """Correct a stock row's units at the version that was seen; return its new version."""
        row = self._pinned(key)
        self.move(key, MovementKind.ADJUST, delta, 0)
        return row.version

    def delete(self, key: StockKey) -> None:
        """Empty a stock row and mark it deleted, so that its version can go on."""
        row = self._pinned(key)
        row.deleted = True
        row.name = row.low_stock_at = None
        self.move(key, MovementKind.DELETE, -row.available, 0)

    def overdue_holds(self, key: StockKey) -> list[Reservation]:
        """Return the overdue holds on a stock row, in the order of their ids.

        If they were not loaded, the row is noted in `lacking`: the caller must load them and plan
        again.
        """
        row = self._row(key)
        if row is None or not row.held:
            return []
        if key not in self._snapshot.overdue:
            self.lacking.add(key)
            return []
        holds = [self._reservations[id_] for id_ in self._holds.get(key, ())]
        return [hold for hold in holds if is_overdue(hold, self.at)]

    def reservation(self, id_: UUID) -> Reservation | None:
        """Return a reservation as the batch has changed it; None when there is none."""
        return self._reservations.get(id_)

    def owner_of(self, id_: UUID) -> str | None:
        """Return the source of a reservation; None when there is none."""
        reservation = self._reservations.get(id_)
        return None if reservation is None else reservation.source

    def reservation_of(self, identity: Identity) -> Reservation | None:
        """Return the reservation that a request with this identity made; None if none did."""
        id_ = self._ids.get(identity)
        return None if id_ is None else self._reservations[id_]

    def hold_seconds_max(self, source: str) -> int | None:
        """Return the longest time for which a hold of this source may be open; None: no limit."""
        limit = self._limit(source)
        return None if limit is None else limit.hold_seconds_max

    def excess(self, source: str, lines: Sequence[Line]) -> Excess | None:
        """Return the limit that a hold of these lines would exceed; None if there is room.

        A refusal for this reason relies on the use alone, not on the stock rows: a source at its
        limit would otherwise compete for their versions with all other sources.
        """
        use = self._use(source)
        excess = None if use is None else use.excess(units_of(lines))
        if excess is None:
            self._checked = use
        else:
            self._looked = []
        return excess

    def create(self, reservation: Reservation) -> None:
        """Add a new reservation; a hold adds to the use of its source."""
        if reservation.state == State.HELD:
            use = self._use(reservation.source)
            if use is not None:
                use.open(units_of(reservation.lines))
        self._reservations[reservation.id] = reservation
        self._ids[reservation.source, reservation.seq] = reservation.id
        self._stepped.add(reservation.id)

    def step(
        self,
        reservation: Reservation,
        step: Step,
        *,
        lines: tuple[Line, ...] | None = None,
        expires_at: datetime | None = None,
    ) -> Reservation:
        """Take a step of the lifecycle, which raises the version; return the reservation.

        A step that ends a hold reduces the use of its source.
        """
        deadline = reservation.expires_at
        if reservation.state == State.HELD and step != "expire" and deadline is not None:
            self._apply_before = min(self._apply_before or deadline, deadline)
        changed = reservation._replace(
            state=state_after(reservation.state, step),
            version=reservation.version + 1,
            expires_at=expires_at or deadline,
            updated_at=self.at,
            lines=reservation.lines if lines is None else lines,
        )
        if reservation.state == State.HELD and changed.state != State.HELD:
            use = self._use(reservation.source)
            if use is not None:
                use.close(units_of(reservation.lines))
        self._reservations[reservation.id] = changed
        self._stepped.add(reservation.id)
        return changed

    def recall(self, kind: type[AnyAnswer], identity: Identity) -> AnyAnswer | None:
        """Return the answer of this kind that is stored under an identity, or None."""
        answer: AnyAnswer | None = self._answers.get(kind, {}).get(identity)
        return self._snapshot.answer(kind, identity) if answer is None else answer

    def remember(self, answer: StoredAnswer) -> None:
        """Store an answer under its identity; it replaces an earlier state of the answer."""
        self._answers.setdefault(type(answer), {})[answer.identity] = answer

    def writes(self) -> Writes:
        """Return the net writes with their guards, in the order in which rows are locked."""
        writes = Writes(movements=self._movements, apply_before=self._apply_before)
        for kind, answers in self._answers.items():
            self._write_answers(writes, kind, answers)
        for id_ in sorted(self._stepped, key=attrgetter("int")):  # as UUIDs compare, but in C
            self._write_reservation(writes, self._reservations[id_])
        self._pin()
        for _, use in sorted(self._uses.items()):
            if use.is_changed or use.is_relied_on:
                writes.limits_changed.append(use.change())
        for _, row in sorted(self._rows.items()):
            if row.is_new and row.steps:
                writes.stock_created.append(row.stock())
            elif row.steps:
                writes.stock_changed.append(row.change())
            elif row.pinned and not row.is_new:
                writes.stock_pinned.append((row.sku, row.location, row.seen_version))
        return writes

    def _limit(self, source: str) -> SourceLimit | None:
        if self._snapshot.limits is None:
            raise AssertionError(f"a plan needs the limits of {source}, which were not loaded")
        return self._snapshot.limits.get(source)

    def _use(self, source: str) -> SourceUse | None:
        """The use of a source, as the batch has changed it; None if its holds are not tracked."""
        use = self._uses.get(source)
        if use is None:
            seen = self._limit(source)
            if seen is not None and seen.tracking != Tracking.OFF:
                use = self._uses[source] = SourceUse(seen)
        return use

    def _row(self, key: StockKey) -> StockRow | None:
        """The stock row as the batch has changed it, even deleted; None if there never was one."""
        row = self._rows.get(key)
        if row is None:
            seen = self._snapshot.stock.get(key)
            if seen is not None:
                row = self._rows[key] = StockRow(seen)
                row.pinned = self._pins_rows
        return row

    def _pinned(self, key: StockKey) -> StockRow:
        row = self._row(key)
        if row is None or row.deleted:
            raise AssertionError(f"a plan changes stock row {key}, which does not exist")
        row.pinned = True
        return row

    def _write_answers(
        self, writes: Writes, kind: type[Any], answers: dict[Identity, StoredAnswer]
    ) -> None:
        for identity, answer in sorted(answers.items()):
            seen = self._snapshot.answer(kind, identity)
            if seen is None:
                writes.answers_created.setdefault(kind, []).append(answer)
            else:
                writes.answers_changed.setdefault(kind, []).append((seen, answer))

    def _write_reservation(self, writes: Writes, reservation: Reservation) -> None:
        seen = self._snapshot.reservations.get(reservation.id)
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
        """Pin every row that a refusal relied on, where the batch changes one of them.

        A refusal that found room within the limits also relies on the use of them.
        """
        for keys, use in self._reliances:
            rows = [row for key in keys if (row := self._rows.get(key)) is not None]
            if any(row.steps for row in rows) or (use is not None and use.needs_the_batch):
                for row in rows:
                    row.pinned = True
                if use is not None:
                    use.is_relied_on = True


def _holds_by_row(snapshot: Snapshot) -> dict[StockKey, list[UUID]]:
    """The holds on each stock row, if overdue holds were loaded at all."""
    holds: dict[StockKey, list[UUID]] = {}
    if snapshot.overdue:
        for reservation in sorted(snapshot.reservations.values()):
            if reservation.state == State.HELD:
                for line in reservation.lines:
                    holds.setdefault(line.key, []).append(reservation.id)
    return holds
