"""Plain values: the rows of the database, the snapshot for a plan, and the writes of a plan.

This module uses no SQL, no driver and no clock. So the planner can be pure, and a test can build
each of these values by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

StockKey = tuple[str, str]
"""The key of a stock row: (sku, location)."""

Identity = tuple[str, str]
"""The identity of a request: (source, seq); for an import (source, job)."""


class Stock(NamedTuple):
    """One stock row. A deleted row is kept, empty, so that its version never starts again."""

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
    """Set only in a row that a plan creates."""

    @property
    def key(self) -> StockKey:
        """The row's primary key."""
        return self.sku, self.location


class Line(NamedTuple):
    """The units that a reservation takes of one stock row; `refunded <= confirmed <= quantity`."""

    sku: str
    location: str
    quantity: int
    confirmed: int = 0
    refunded: int = 0

    @property
    def key(self) -> StockKey:
        """The key of the stock row."""
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


class StoredAnswer(Protocol):
    """A row that answers the same request again; `db.ledger.answers` lists the kinds."""

    @property
    def identity(self) -> Identity:
        """The identity of the request."""


AnyAnswer = TypeVar("AnyAnswer", bound=StoredAnswer)


class Refund(NamedTuple):
    """Units that were given back; `entire` when the request named no lines and meant the rest."""

    id: UUID
    reservation_id: UUID
    source: str
    seq: str
    entire: bool
    reason: str | None
    created_at: datetime
    lines: tuple[Line, ...]

    @property
    def identity(self) -> Identity:
        """The identity of the request."""
        return self.source, self.seq


class Adjustment(NamedTuple):
    """A correction of `available` by `delta`; `version` is the one that it gave the stock row."""

    id: UUID
    source: str
    seq: str
    sku: str
    location: str
    delta: int
    reason: str
    version: int
    created_at: datetime

    @property
    def identity(self) -> Identity:
        """The identity of the request."""
        return self.source, self.seq


class ImportJob(NamedTuple):
    """The record of a stock import; `digest` is the SHA-256 of the imported bytes."""

    source: str
    job: str
    digest: str
    rows_in_all: int
    """The number of rows of all parts; an import is carried out one part after another."""
    created: int
    skipped: int
    created_at: datetime

    @property
    def identity(self) -> Identity:
        """The identity of the request."""
        return self.source, self.job

    @property
    def rows_done(self) -> int:
        """The number of rows that have been carried out."""
        return self.created + self.skipped

    @property
    def is_done(self) -> bool:
        """True when all rows have been carried out."""
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
    """One guarded change of one stock row, relative to its current content.

    It applies only if `available + lowest >= 0`. Without `seen_version` the row must not be
    deleted. With it the row must still have that version; then name, threshold and deletion are
    written too.
    """

    sku: str
    location: str
    available_delta: int
    held_delta: int
    lowest: int
    """The lowest value that `available_delta` had in the course of the plan, at most 0."""
    steps: int
    """The number of versions that the row advances by."""
    seen_version: int | None
    name: str | None
    low_stock_at: int | None
    deleted: bool
    updated_at: datetime
    fence: int | None = None
    """The token of the lock under which the change is made: a row refuses every lower token."""


class SourceLimit(NamedTuple):
    """The limits of a source (None: no limit), and their use by its open holds.

    `open_holds` and `held_units` mean nothing while `tracking` is off, and are incomplete while it
    is `counting`.
    """

    source: str
    open_holds_max: int | None
    held_units_max: int | None
    hold_seconds_max: int | None
    tracking: str
    open_holds: int
    held_units: int


class SourceLimitChange(NamedTuple):
    """One guarded change of a source's use, relative to its current use.

    It applies only if the use plus `highest` is within each limit, and the use plus `refused` is
    beyond it. A value of None is not checked.
    """

    source: str
    holds_delta: int
    units_delta: int
    holds_highest: int | None
    """The highest value that `holds_delta` had when the plan accepted a hold."""
    units_highest: int | None
    holds_refused: int | None
    """The lowest value that `holds_delta` would have had with a hold that the plan refused."""
    units_refused: int | None


class ReservationChange(NamedTuple):
    """One guarded change of a reservation's state: it applies only at `seen_version`."""

    id: UUID
    seen_version: int
    version: int
    state: str
    expires_at: datetime | None
    updated_at: datetime


@dataclass(slots=True)
class Wanted:
    """The keys of the rows that a batch of commands must see. Some of the rows may not exist."""

    reservations: set[UUID] = field(default_factory=set)
    own_reservations: set[tuple[UUID, str]] = field(default_factory=set)
    """(id, source): loaded only if the reservation belongs to that source."""
    identities: set[Identity] = field(default_factory=set)
    """The identities of reservations."""
    stock: set[StockKey] = field(default_factory=set)
    answers: dict[type[Any], set[Identity]] = field(default_factory=dict)
    """The identities of the stored answers, by the kind of answer."""
    overdue: set[StockKey] = field(default_factory=set)
    """The stock rows whose overdue holds must be seen."""
    holders: set[str] = field(default_factory=set)
    """The sources that may get a hold."""
    may_end_holds: bool = False
    """True if one of the wanted reservations may be a hold that ends."""

    @property
    def limits(self) -> bool:
        """True if limits must be seen: those of `holders` and of all reservations."""
        return bool(self.holders or self.may_end_holds or self.overdue)

    def want(self, kind: type[Any], identity: Identity) -> None:
        """Name the stored answer to a request."""
        self.answers.setdefault(kind, set()).add(identity)


@dataclass(slots=True)
class Snapshot:
    """The rows that a plan is made from, as they were at `now` by the database's clock."""

    now: datetime
    stock: dict[StockKey, Stock] = field(default_factory=dict)
    reservations: dict[UUID, Reservation] = field(default_factory=dict)
    answers: dict[type[Any], dict[Identity, Any]] = field(default_factory=dict)
    overdue: frozenset[StockKey] = frozenset()
    """The stock rows whose overdue holds are among `reservations`."""
    limits: Mapping[str, SourceLimit] | None = field(default_factory=dict)
    """The limits by source, of sources that have any; None if they were not loaded."""

    def answer(self, kind: type[AnyAnswer], identity: Identity) -> AnyAnswer | None:
        """Return the stored answer to a request; None when there is none."""
        answer: AnyAnswer | None = self.answers.get(kind, {}).get(identity)
        return answer


@dataclass(slots=True)
class Writes:
    """The net effect of a plan: one entry for each row, in the order in which rows are locked.

    The lists of answers are never empty: a kind without answers has no list.
    """

    reservations_created: list[Reservation] = field(default_factory=list)
    reservations_changed: list[ReservationChange] = field(default_factory=list)
    lines_changed: list[tuple[UUID, Line]] = field(default_factory=list)
    answers_created: dict[type[Any], list[Any]] = field(default_factory=dict)
    answers_changed: dict[type[Any], list[tuple[Any, Any]]] = field(default_factory=dict)
    """Pairs of the answer that was seen and the answer that replaces it."""
    limits_changed: list[SourceLimitChange] = field(default_factory=list)
    stock_created: list[Stock] = field(default_factory=list)
    stock_changed: list[StockChange] = field(default_factory=list)
    stock_pinned: list[tuple[str, str, int]] = field(default_factory=list)
    """Rows (sku, location, version) that the plan leaves alone, but that must have that version."""
    movements: list[Movement] = field(default_factory=list)
    apply_before: datetime | None = None
    """The earliest deadline that the plan relied on: the writes must be complete before it."""

    def __bool__(self) -> bool:
        """True when there is anything to write."""
        return bool(
            self.reservations_created
            or self.reservations_changed
            or self.stock_created
            or self.stock_changed
            or self.answers_created
            or self.answers_changed
        )
