"""The cursors of lists: each one names a position in the order of its list, and nothing else."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import msgspec

from service.domain.errors import InvalidRequest
from service.http.reading.parameters import LIMIT, Kind, QueryParameter, text_at
from service.input.bodies import NAME_MAX, VERSION_MAX

CURSOR_MAX = 2_048
"""Characters. The longest cursor has 1,450, for names of four bytes a character."""

# The parts of a position, with the limits of PostgreSQL: it would fail on any other value.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Ordinal = Annotated[int, msgspec.Meta(ge=1, le=VERSION_MAX)]
StepNumber = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX, pattern=r"^[^\x00]*\Z")]


@dataclass(frozen=True, slots=True)
class ListOrder:
    """The order of a list: the type of a position in it, and the position of a row."""

    kind: Any
    position_of: Callable[[Any], Any]
    example: Any


CREATED_AT = datetime(2026, 11, 25, 9, tzinfo=UTC)
BY_CREATION = ListOrder(
    tuple[Moment, UUID],
    lambda row: (row.created_at, row.id),
    (CREATED_AT, UUID("a518b7ec-02dc-5e23-a729-2430728ee1e0")),
)
BY_TIME = ListOrder(
    tuple[Moment, UUID],
    lambda row: (row.at, row.id),
    (CREATED_AT, UUID("a518b7ec-02dc-5e23-a729-2430728ee1e0")),
)
STOCK_BY_CREATION = ListOrder(
    tuple[Moment, Text, Text],
    lambda found: (found[0], found[1].sku, found[1].location),
    (CREATED_AT, "85123A", "main"),
)
BY_VERSION = ListOrder(Ordinal, lambda row: row.version, 1)
BY_STEP = ListOrder(
    tuple[StepNumber, Text, Text],
    lambda row: (row.reservation_version, row.sku, row.location),
    (1, "85123A", "main"),
)


class Page(NamedTuple):
    """A part of a list: its rows, and the cursor that continues after them, if there are more."""

    rows: Sequence[Any]
    next_cursor: str | None


def page_of(found: Sequence[Any], limit: int, order: ListOrder) -> Page:
    """Return the first `limit` rows as a page; one row more shows that the list goes on."""
    return page_before(found[:limit], order, is_more=len(found) > limit)


def page_before(rows: Sequence[Any], order: ListOrder, *, is_more: bool) -> Page:
    """Return rows as a page, with a cursor if the list goes on after them."""
    return Page(rows, cursor_after(order.position_of(rows[-1])) if is_more else None)


def listed(order: ListOrder) -> tuple[QueryParameter, QueryParameter]:
    """Return the parameters of a list in this order: the length of a page and its cursor."""
    cursor = QueryParameter(
        "cursor",
        "The `next_cursor` of the previous page.",
        Kind(
            {"type": "string", "minLength": 1, "maxLength": CURSOR_MAX},
            partial(read_cursor, order),
        ),
        example=cursor_after(order.example),
    )
    return LIMIT, cursor


def read_cursor(order: ListOrder, name: str, text: str) -> Any:
    """Return the position that a cursor names. Raises `InvalidRequest`."""
    text_at(name, text, CURSOR_MAX)
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        position = msgspec.json.decode(raw, type=order.kind, strict=True)
        if cursor_after(position) == text and not _has_offset(position):
            return position
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        pass
    raise InvalidRequest.at(
        name,
        "is not a cursor of this list: send the next_cursor of the previous page unchanged",
    )


def cursor_after(position: Any) -> str:
    """Return the cursor that continues after a position."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def _has_offset(position: Any) -> bool:
    """True when a moment in a position is not in UTC, as all moments in our cursors are."""
    parts = position if isinstance(position, tuple) else (position,)
    return any(isinstance(part, datetime) and bool(part.utcoffset()) for part in parts)
