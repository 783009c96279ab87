"""What the database holds, as plain values: the snapshot a plan reads and the writes it asks for.

No SQL, no driver and no clock live here, so that the planner can be pure and a test can build any
of it by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

Key = tuple[str, str]
"""The key of a stock row: (sku, location)."""

Identity = tuple[str, str]
"""Who asked, and under which serial number: (source, seq)."""


class Stock(NamedTuple):
    """One stock row. A row that was deleted stays, empty, so that its version goes on."""

    sku: str
    location: str
    name: str | None
    available: int
    held: int
    low_stock_at: int | None
    version: int
    updated_at: datetime
    deleted: bool = False
    created_at: datetime | None = None
    """Known of a row that a plan creates."""

    @property
    def key(self) -> Key:
        """The row's primary key."""
        return self.sku, self.location


class Line(NamedTuple):
    """What a reservation asks of one stock row, in units; `refunded <= confirmed <= quantity`."""

    sku: str
    location: str
    quantity: int
    confirmed: int = 0
    refunded: int = 0

    @property
    def key(self) -> Key:
        """The stock row the line is about."""
        return self.sku, self.location


class Reservation(NamedTuple):
    """One reservation with its lines, in order of (sku, location), one for each stock row."""

    id: UUID
    source: str
    seq: str
    state: str
    version: int
    hold_seconds: int | None
    expires_at: datetime | None
    metadata: Mapping[str, str]
    shortages: list[dict[str, Any]] | None
    created_at: datetime
    updated_at: datetime
    lines: tuple[Line, ...]


class Refund(NamedTuple):
    """Units given back; `entire` when the request named no lines and so meant all that was left."""

    id: UUID
    reservation_id: UUID
    source: str
    seq: str
    entire: bool
    reason: str | None
    created_at: datetime
    lines: tuple[Line, ...]


class Adjustment(NamedTuple):
    """A correction of `available` by `delta`; `version` is the stock row's right after it."""

    id: UUID
    source: str
    seq: str
    sku: str
    location: str
    delta: int
    reason: str
    version: int
    created_at: datetime


class ImportJob(NamedTuple):
    """The record of a stock import; `digest` is the SHA-256 of the bytes it was made from."""

    source: str
    job: str
    digest: str
    rows_in_all: int
    """An import is carried out a part at a time."""
    created: int
    skipped: int
    created_at: datetime

    @property
    def rows_done(self) -> int:
        """How many rows have been carried out."""
        return self.created + self.skipped

    @property
    def is_done(self) -> bool:
        """True when all have been."""
        return self.rows_done == self.rows_in_all


class Movement(NamedTuple):
    """One line of the ledger. `ordinal` counts the changes of its stock row within one plan."""

    sku: str
    location: str
    ordinal: int
    kind: str
    available_delta: int
    held_delta: int
    reservation_id: UUID | None
    reservation_version: int | None
    created_at: datetime


class StockChange(NamedTuple):
    """One guarded change of one stock row, relative to what is there.

    It holds only if the row is not deleted and `available + lowest >= 0`; with `seen_version` only
    if the row still has that version, and only then are name, threshold and deletion written too.
    """

    sku: str
    location: str
    available_delta: int
    held_delta: int
    lowest: int
    steps: int
    seen_version: int | None
    name: str | None
    low_stock_at: int | None
    deleted: bool
    updated_at: datetime
    fence: int | None = None
    """The token of the lock under which the change is made: a row refuses all lower ones."""


class ImportProgress(NamedTuple):
    """One guarded change of an import's record: it holds only with `seen` rows done."""

    source: str
    job: str
    seen: int
    created: int
    skipped: int


class ReservationChange(NamedTuple):
    """One guarded change of a reservation's state: it holds only at `seen_version`."""

    id: UUID
    seen_version: int
    version: int
    state: str
    expires_at: datetime | None
    updated_at: datetime


@dataclass(slots=True)
class Wanted:
    """Which rows a batch of commands must see. Sets of keys; a key may lead nowhere."""

    reservations: set[UUID] = field(default_factory=set)
    own_reservations: set[tuple[UUID, str]] = field(default_factory=set)
    """(id, source): only if the reservation is that source's."""
    identities: set[Identity] = field(default_factory=set)
    stock: set[Key] = field(default_factory=set)
    refunds: set[Identity] = field(default_factory=set)
    adjustments: set[Identity] = field(default_factory=set)
    import_jobs: set[tuple[str, str]] = field(default_factory=set)
    overdue: set[Key] = field(default_factory=set)


@dataclass(slots=True)
class Snapshot:
    """The rows a plan is made from, as they stood at `now`, the database's clock."""

    now: datetime
    stock: dict[Key, Stock] = field(default_factory=dict)
    reservations: dict[UUID, Reservation] = field(default_factory=dict)
    refunds: dict[Identity, Refund] = field(default_factory=dict)
    adjustments: dict[Identity, Adjustment] = field(default_factory=dict)
    import_jobs: dict[tuple[str, str], ImportJob] = field(default_factory=dict)
    overdue: frozenset[Key] = frozenset()
    """The stock rows whose overdue holds are among `reservations`."""


@dataclass(slots=True)
class Writes:
    """The net effect of a plan, one entry a row, every list in the order rows are locked in."""

    reservations_created: list[Reservation] = field(default_factory=list)
    reservations_changed: list[ReservationChange] = field(default_factory=list)
    lines_changed: list[tuple[UUID, Line]] = field(default_factory=list)
    refunds_created: list[Refund] = field(default_factory=list)
    adjustments_created: list[Adjustment] = field(default_factory=list)
    import_jobs_created: list[ImportJob] = field(default_factory=list)
    import_jobs_changed: list[ImportProgress] = field(default_factory=list)
    stock_created: list[Stock] = field(default_factory=list)
    stock_changed: list[StockChange] = field(default_factory=list)
    stock_pinned: list[tuple[str, str, int]] = field(default_factory=list)
    """Rows (sku, location, version) that are not changed but must not have changed either."""
    movements: list[Movement] = field(default_factory=list)
    apply_before: datetime | None = None
    """The earliest deadline the plan relied on: at or after it the writes must not stand."""

    def __bool__(self) -> bool:
        """True when there is anything to write."""
        return bool(
            self.reservations_created
            or self.reservations_changed
            or self.stock_created
            or self.stock_changed
            or self.import_jobs_created
            or self.import_jobs_changed
        )
