"""Everything that changes stock, as commands: what is asked, by whom; and what it came to.

A command is already valid: lines are merged, one for each stock row, in order of (sku, location).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from db.rows import Adjustment, Identity, ImportJob, Key, Line, Refund, Reservation, Stock, Wanted
from service.domain.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a command: its own source, and whether it may touch every source's reservations."""

    source: str
    every_source: bool = False

    def sees(self, source: str) -> bool:
        """True when the caller may know of that source's reservations."""
        return self.every_source or source == self.source

    @property
    def only_source(self) -> str | None:
        """The one source whose reservations the caller may know of; None for every source's."""
        return None if self.every_source else self.source

    def want(self, wanted: Wanted, id_: UUID) -> None:
        """Name a reservation, to be seen only if the caller may know of it."""
        if self.every_source:
            wanted.reservations.add(id_)
        else:
            wanted.own_reservations.add((id_, self.source))


R_co = TypeVar("R_co", covariant=True)
"""The type of the result of a command."""

Effect: TypeAlias = Literal["created", "changed", "unchanged"]
"""What a command did to what is stored. `unchanged`: it had its effect before, or needs none."""


@dataclass(slots=True)
class Done(Generic[R_co]):
    """A command that was carried out, now or before, and its result."""

    effect: Effect
    value: R_co

    @property
    def replayed(self) -> bool:
        """True when an earlier request had this effect."""
        return self.effect == "unchanged"


Outcome: TypeAlias = Done[R_co] | ServiceError


class Command(Generic[R_co]):
    """A request to change stock. Its outcome is `Done` with an `R_co`, or a refusal."""

    __slots__ = ()

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        raise NotImplementedError


@dataclass(slots=True)
class Reserve(Command[Reservation]):
    """Take units: as a hold with a deadline, or for good when `hold_seconds` is None."""

    source: str
    seq: str
    id: UUID | None
    lines: tuple[Line, ...]
    hold_seconds: int | None
    metadata: Mapping[str, str]
    effective_id: UUID

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        wanted.reservations.add(self.effective_id)
        wanted.identities.add((self.source, self.seq))
        for line in self.lines:
            wanted.stock.add((line.sku, line.location))


@dataclass(slots=True)
class Confirm(Command[Reservation]):
    """Turn a hold, or the given lines of it, into a sale; the rest is released."""

    caller: Caller
    id: UUID
    lines: tuple[Line, ...] | None

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        self.caller.want(wanted, self.id)


@dataclass(slots=True)
class Cancel(Command[Reservation]):
    """Give all units of a hold back."""

    caller: Caller
    id: UUID

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        self.caller.want(wanted, self.id)


@dataclass(slots=True)
class Extend(Command[Reservation]):
    """Move a hold's deadline to `hold_seconds` from now."""

    caller: Caller
    id: UUID
    hold_seconds: int

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        self.caller.want(wanted, self.id)


@dataclass(slots=True)
class Expire(Command[Reservation | None]):
    """Give all units of a hold back, if its deadline has passed; otherwise do nothing."""

    id: UUID

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        wanted.reservations.add(self.id)


@dataclass(slots=True)
class RefundUnits(Command[Refund]):
    """Give units of a confirmed reservation back: the lines, or all that is left."""

    caller: Caller
    id: UUID
    seq: str
    lines: tuple[Line, ...] | None
    reason: str | None

    @property
    def identity(self) -> Identity:
        """Who asked, and under which number."""
        return self.caller.source, self.seq

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        self.caller.want(wanted, self.id)
        wanted.refunds.add(self.identity)


@dataclass(slots=True)
class SetStock(Command[Stock]):
    """Create a stock row (`expected_version` None) or replace the one at that version."""

    sku: str
    location: str
    available: int
    name: str | None
    low_stock_at: int | None
    expected_version: int | None

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        wanted.stock.add((self.sku, self.location))


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
        """Who asked, and under which number."""
        return self.source, self.seq

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        wanted.stock.add((self.sku, self.location))
        wanted.adjustments.add(self.identity)


@dataclass(slots=True)
class DeleteStock(Command[None]):
    """Take a stock row away; `expected_version` None asks for no particular version."""

    sku: str
    location: str
    expected_version: int | None

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        wanted.stock.add((self.sku, self.location))


@dataclass(slots=True)
class ImportStock(Command[ImportJob]):
    """Create the stock rows that are missing, once for each job name: all of them, or a part."""

    source: str
    job: str
    digest: str
    rows: tuple[tuple[str, str, int, str | None], ...]
    """(sku, location, available, name), each stock row once."""
    first: int = 0
    """The place of the first of these rows among all of the job's."""
    rows_in_all: int | None = None
    """How many the job has; None when these are all."""

    def want(self, wanted: Wanted) -> None:
        """Name the rows this command must see."""
        wanted.import_jobs.add((self.source, self.job))
        wanted.stock.update((sku, location) for sku, location, _, _ in self.rows)


def verdict_of(outcome: Outcome[Any]) -> str:
    """Return the effect of a command that was carried out, or the code of its refusal."""
    return outcome.effect if isinstance(outcome, Done) else outcome.code


def wanted_by(commands: Iterable[Command[Any]]) -> Wanted:
    """Return the rows that a batch must see."""
    wanted = Wanted()
    for command in commands:
        command.want(wanted)
    return wanted


def weight_of(command: Command[Any]) -> int:
    """Return how many stock rows a command names, at least 1."""
    if isinstance(command, Reserve):
        return len(command.lines)
    return len(command.rows) if isinstance(command, ImportStock) else 1


def names_of(command: Command[Any]) -> set[Any]:
    """Return the ids and stock keys a command names itself."""
    wanted = wanted_by([command])
    own = {id_ for id_, _ in wanted.own_reservations}
    return wanted.reservations | own | wanted.stock


def merge_lines(lines: list[tuple[str, str, int]]) -> tuple[Line, ...]:
    """Return one line for each (sku, location), quantities summed, in the order of their keys."""
    if len(lines) == 1:
        return (Line(*lines[0]),)
    sums: dict[Key, int] = {}
    for sku, location, quantity in lines:
        key = (sku, location)
        sums[key] = sums.get(key, 0) + quantity
    return tuple(Line(*key, quantity) for key, quantity in sorted(sums.items()))


def reservation_id(source: str, seq: str) -> UUID:
    """Return the id a reservation has when its client chooses none."""
    return _uuid5(_namespace(source), seq)


def refund_id(source: str, seq: str) -> UUID:
    """Return the id of a refund."""
    return uuid5(_namespace(source), f"refund:{seq}")


def adjustment_id(source: str, seq: str) -> UUID:
    """Return the id of an adjustment."""
    return uuid5(_namespace(source), f"adjustment:{seq}")


def _namespace(source: str) -> UUID:
    if source not in _NAMESPACES:
        if len(_NAMESPACES) >= NAMESPACES_MAX:
            _NAMESPACES.clear()
        _NAMESPACES[source] = uuid5(NAMESPACE_URL, f"holdfast:{source}")
    return _NAMESPACES[source]


_NAMESPACES: dict[str, UUID] = {}
NAMESPACES_MAX = 10_000  # sources are few; a bound all the same


def _uuid5(namespace: UUID, name: str) -> UUID:
    """The UUID of RFC 9562, 5.5, as `uuid.uuid5` makes it, without its detour over a string."""
    digest = hashlib.sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF000 << 64) | (5 << 76)
    number = number & ~(0xC000 << 48) | (0x8000 << 48)
    return UUID(int=number)
