"""Commands, which are the requests to change stock, and their outcomes.

A command is already valid: lines are merged, one for each stock row, in order of (sku, location).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

from db.rows import (
    Adjustment,
    Identity,
    ImportJob,
    Line,
    Refund,
    Reservation,
    Stock,
    StockKey,
    Wanted,
)
from service.domain.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a command: its source, and whether it may change any source's reservations."""

    source: str
    every_source: bool = False

    def sees(self, source: str) -> bool:
        """True when the caller may see that source's reservations."""
        return self.every_source or source == self.source

    @property
    def only_source(self) -> str | None:
        """The one source whose reservations the caller may see; None if it may see all."""
        return None if self.every_source else self.source

    def want(self, wanted: Wanted, id_: UUID) -> None:
        """Name a reservation, to be loaded only if the caller may see it."""
        if self.every_source:
            wanted.reservations.add(id_)
        else:
            wanted.own_reservations.add((id_, self.source))


R_co = TypeVar("R_co", covariant=True)
"""The type of the result of a command."""

Effect: TypeAlias = Literal["created", "changed", "unchanged"]
"""The effect of a command on the database. `unchanged`: an earlier request had it, or none has."""


@dataclass(slots=True)
class Done(Generic[R_co]):
    """A command that was carried out, now or before, and its result."""

    effect: Effect
    value: R_co
    owner: str | None = field(default=None, compare=False)
    """As in `ServiceError`."""

    @property
    def replayed(self) -> bool:
        """True when an earlier request had the effect, or there was nothing to do."""
        return self.effect == "unchanged"


Outcome: TypeAlias = Done[R_co] | ServiceError


class Command(Generic[R_co]):
    """A request to change stock. Its outcome is `Done` with an `R_co`, or a refusal."""

    __slots__ = ()

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        raise NotImplementedError  # each command names its own rows


@dataclass(slots=True)
class Reserve(Command[Reservation]):
    """Take units: as a hold with a deadline, or as a sale when `hold_seconds` is None."""

    source: str
    seq: str
    id: UUID | None
    lines: tuple[Line, ...]
    hold_seconds: int | None
    metadata: Mapping[str, str]
    effective_id: UUID

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        wanted.reservations.add(self.effective_id)
        wanted.identities.add((self.source, self.seq))
        if self.hold_seconds:
            wanted.holders.add(self.source)
        for line in self.lines:
            wanted.stock.add((line.sku, line.location))


@dataclass(slots=True)
class Confirm(Command[Reservation]):
    """Turn a hold, or the given lines of it, into a sale, and release the rest."""

    caller: Caller
    id: UUID
    lines: tuple[Line, ...] | None

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        self.caller.want(wanted, self.id)
        wanted.may_end_holds = True


@dataclass(slots=True)
class Cancel(Command[Reservation]):
    """Give all units of a hold back."""

    caller: Caller
    id: UUID

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        self.caller.want(wanted, self.id)
        wanted.may_end_holds = True


@dataclass(slots=True)
class Extend(Command[Reservation]):
    """Move a hold's deadline to `hold_seconds` from now."""

    caller: Caller
    id: UUID
    hold_seconds: int

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        self.caller.want(wanted, self.id)
        wanted.may_end_holds = True


@dataclass(slots=True)
class Expire(Command[Reservation | None]):
    """Give all units of a hold back, if its deadline has passed; otherwise do nothing."""

    id: UUID

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        wanted.reservations.add(self.id)
        wanted.may_end_holds = True


@dataclass(slots=True)
class RefundUnits(Command[Refund]):
    """Give units of a confirmed reservation back: the given lines, or all units that are left."""

    caller: Caller
    id: UUID
    seq: str
    lines: tuple[Line, ...] | None
    reason: str | None

    @property
    def identity(self) -> Identity:
        """The identity of the request."""
        return self.caller.source, self.seq

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        self.caller.want(wanted, self.id)
        wanted.may_end_holds = True
        wanted.want(Refund, self.identity)


@dataclass(slots=True)
class SetStock(Command[Stock]):
    """Create a stock row (`expected_version` None) or replace the one at that version."""

    sku: str
    location: str
    available: int
    name: str | None
    low_stock_at: int | None
    expected_version: int | None

    @property
    def key(self) -> StockKey:
        """The key of the stock row."""
        return self.sku, self.location

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        wanted.stock.add(self.key)


@dataclass(slots=True)
class AdjustStock(Command[Adjustment]):
    """Change `available` by `delta`, for a reason."""

    source: str
    seq: str
    sku: str
    location: str
    delta: int
    reason: str
    expected_version: int | None

    @property
    def identity(self) -> Identity:
        """The identity of the request."""
        return self.source, self.seq

    @property
    def key(self) -> StockKey:
        """The key of the stock row."""
        return self.sku, self.location

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        wanted.stock.add(self.key)
        wanted.want(Adjustment, self.identity)


@dataclass(slots=True)
class DeleteStock(Command[None]):
    """Delete a stock row; `expected_version` None accepts any version."""

    sku: str
    location: str
    expected_version: int | None

    @property
    def key(self) -> StockKey:
        """The key of the stock row."""
        return self.sku, self.location

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        wanted.stock.add(self.key)


@dataclass(slots=True)
class ImportStock(Command[ImportJob]):
    """Create the missing stock rows of an import or of a part of it, once for each job name."""

    source: str
    job: str
    digest: str
    rows: tuple[tuple[str, str, int, str | None], ...]
    """(sku, location, available, name); each stock row once."""
    first: int = 0
    """The index of the first of these rows among all rows of the job."""
    rows_in_all: int | None = None
    """The number of rows of the job; None when these are all."""

    @property
    def identity(self) -> Identity:
        """The identity of the request."""
        return self.source, self.job

    def want(self, wanted: Wanted) -> None:
        """Name the rows that the rule must see."""
        wanted.want(ImportJob, self.identity)
        wanted.stock.update((sku, location) for sku, location, _, _ in self.rows)


def verdict_of(outcome: Outcome[Any]) -> str:
    """Return the effect of a command that was carried out, or the error code of its refusal."""
    return outcome.effect if isinstance(outcome, Done) else outcome.code


def wanted_by(commands: Iterable[Command[Any]]) -> Wanted:
    """Return the keys of the rows that a batch must see."""
    wanted = Wanted()
    for command in commands:
        command.want(wanted)
    return wanted


def weight_of(command: Command[Any]) -> int:
    """Return the number of stock rows that a command names, at least 1."""
    if isinstance(command, Reserve):
        return len(command.lines)
    return len(command.rows) if isinstance(command, ImportStock) else 1


def names_of(command: Command[Any]) -> set[Any]:
    """Return the ids, the stock keys and the source of a hold that a command names itself."""
    wanted = wanted_by([command])
    own = {id_ for id_, _ in wanted.own_reservations}
    return wanted.reservations | own | wanted.stock | wanted.holders


def merge_lines(lines: list[tuple[str, str, int]]) -> tuple[Line, ...]:
    """Return one line for each (sku, location), quantities summed, in the order of their keys."""
    if len(lines) == 1:
        return (Line(*lines[0]),)
    sums: dict[StockKey, int] = {}
    for sku, location, quantity in lines:
        key = (sku, location)
        sums[key] = sums.get(key, 0) + quantity
    return tuple(Line(*key, quantity) for key, quantity in sorted(sums.items()))
