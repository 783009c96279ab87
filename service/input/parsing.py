"""Parses bodies: valid ones in one step, invalid ones member by member up to a number of errors.

Pydantic reads a valid body. Any other body is split into its members, and each is checked. Parsing
stops after a hundred errors, so a body with a million errors costs about as much as a valid one
(docs/decisions.md, 28).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from service.domain.errors import ERRORS_MAX, InvalidRequest
from service.input.bodies import BATCH_LINES_MAX, BatchBody, Body, ReserveBody
from service.input.json_text import (
    BOM,
    TOO_DEEP,
    MalformedError,
    checked,
    count_members,
    is_too_deep,
    items_of,
    members_of,
)
from service.input.messages import MISSING, UNKNOWN, messages_of, near, unknown_member
from service.input.pace import Pace

B = TypeVar("B", bound=Body)
Location: TypeAlias = tuple[int | str, ...]
"""The location of a value in a body: the names and indexes that lead to it."""

BATCH_ERRORS_MAX = ERRORS_MAX
"""The number of errors that the answer to a batch names; beyond it, one for each bad entry."""

SMALL = 256 * 1024
"""Bytes of a body that is cheap to read, whatever it contains."""

VALUES_MAX = 10_000
"""More commas and brackets outside of strings than a valid body has, except a batch."""

LEAF_MAX = 16 * 1024
"""Bytes of a value other than an object; 1,000 characters with two escapes each have 12,000."""

ITEMS_MAX = 8
"""Items of a list of plain values that is too long; no such list may have more."""

NUMBER_MAX = 100
"""Digits of a number; a wrong number is still wrong with only these digits."""

STEP_MAX = 64
"""Characters of a member's name that a path shows."""


class InvalidEntry(NamedTuple):
    """An entry of a batch that is not a valid reservation, with its error."""

    error: InvalidRequest


def parse(model: type[B], raw: bytes) -> B:
    """Parse and validate a body. Raises `InvalidRequest` that names the wrong values."""
    raw = raw.removeprefix(BOM)
    body = _parse_if_valid(model, raw)
    return body if body is not None else _parse_by_member(model, _well_formed(raw), _Errors())


async def parse_batch(raw: bytes) -> list[ReserveBody | InvalidEntry]:
    """Parse a batch entry by entry, letting other tasks run. Raises `InvalidRequest` for all."""
    pace = Pace()
    raw = _well_formed(raw.removeprefix(BOM))
    await pace.rest()
    entries: list[ReserveBody | InvalidEntry] = []
    left, lines = BATCH_ERRORS_MAX, 0
    for raw_entry in _raw_entries(raw):
        await pace.rest()
        entry: ReserveBody | InvalidEntry | None = _parse_if_valid(ReserveBody, raw_entry)
        if entry is None:
            errors = _Errors(left) if left > 0 else _Errors(1, looks_for_more=False)
            entry = _entry(raw_entry, errors)
            left -= len(errors.found)
        lines += len(entry.lines) if isinstance(entry, ReserveBody) else errors.items
        if lines > BATCH_LINES_MAX:
            wrong = f"must not have more than {BATCH_LINES_MAX:,} lines in all"
            raise InvalidRequest.at("reservations", wrong)
        entries.append(entry)
    return entries


def refusal(error: ValidationError) -> InvalidRequest:
    """Return the refusal that names the path and the error of each wrong value."""
    errors = _Errors()
    with suppress(_TooManyErrors):
        errors.add_all((), error)
    return errors.refusal()


def path(location: Location) -> str:
    """Return a value's path as a client would write it: lines[0].quantity."""
    written = ""
    for step in location:
        if isinstance(step, int):
            written += f"[{step}]"
        else:
            name = step if len(step) <= STEP_MAX else f"{step[:STEP_MAX]}…"
            name = name or '""'
            written += f".{name}" if written else name
    return written or "body"


def _parse_if_valid(model: type[B], raw: bytes) -> B | None:
    """Return the body if it is valid; None if it is not or may be too expensive to read."""
    if len(raw) > SMALL and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUES_MAX:
        return None
    try:
        body = model.model_validate_json(raw)
    except ValidationError:
        return None
    return body if _has_no_others(body, raw) else None


def _has_no_others(body: Body, raw: bytes) -> bool:
    """True when the JSON has only the body's members, each once; strings may contain colons."""
    members = body.members()
    return members == raw.count(b":") or members == count_members(raw)


def _well_formed(raw: bytes) -> bytes:
    try:
        return checked(raw)
    except MalformedError as error:
        raise InvalidRequest.at("body", str(error)) from None


def _raw_entries(raw: bytes) -> list[bytes]:
    errors = _Errors()
    entries: Mapping[str, list[bytes]] = {}
    with suppress(_TooManyErrors):
        entries = _check_object(BatchBody, raw, (), errors)
    errors.refuse()
    return entries["reservations"]


def _entry(raw: bytes, errors: "_Errors") -> ReserveBody | InvalidEntry:
    try:
        return _parse_by_member(ReserveBody, raw, errors)
    except InvalidRequest as error:
        return InvalidEntry(error.as_value())


def _parse_by_member(model: type[B], raw: bytes, errors: "_Errors") -> B:
    """Return a body that only looked too large, or raise `InvalidRequest` with its errors."""
    if is_too_deep(raw):
        raise InvalidRequest.at("body", TOO_DEEP)
    with suppress(_TooManyErrors):
        _check_with_items(model, raw, (), errors)
    errors.refuse()
    body = model.model_validate_json(raw)
    if not _has_no_others(body, raw):
        raise InvalidRequest.at("body", "has unknown or repeated members")
    return body


class _TooManyErrors(Exception):
    """The number of reported errors has been reached."""


class _Errors:
    """The errors of a body, up to a number, and the number of list items."""

    def __init__(self, most: int = ERRORS_MAX, *, looks_for_more: bool = True) -> None:
        self.found: list[dict[str, str]] = []
        self.most = most
        self.looks_for_more = looks_for_more
        self.is_truncated = False
        self.items = 0

    def add(self, location: Location, message: str) -> None:
        """Add an error. Raises `_TooManyErrors` when no further error is to be added."""
        is_full = len(self.found) == self.most
        if not is_full:
            self.found.append({"path": path(location), "message": message})
        if is_full or not self.looks_for_more:
            self.is_truncated = True
            raise _TooManyErrors

    def add_all(self, location: Location, error: ValidationError) -> None:
        """Add the errors that pydantic found in the value at a location."""
        for inner, message in messages_of(error):
            self.add((*location, *inner), message)

    def refusal(self) -> InvalidRequest:
        """Return the refusal."""
        return InvalidRequest.of(self.found, truncated=self.is_truncated)

    def refuse(self) -> None:
        """Raise the refusal if there is an error."""
        if self.found:
            raise self.refusal()


def _check_with_items(model: type[Body], raw: bytes, location: Location, errors: _Errors) -> None:
    """Add the errors of an object, and of the invalid objects in its lists."""
    for name, items in _check_object(model, raw, location, errors).items():
        kind, most = _lists(model)[name]
        for index, item in enumerate(items[:most]):
            if _parse_if_valid(kind, item) is None:
                _check_with_items(kind, item, (*location, name, index), errors)


def _check_object(
    model: type[Body], raw: bytes, location: Location, errors: _Errors
) -> Mapping[str, list[bytes]]:
    """Add the errors of an object itself; return the items of its lists of objects."""
    if not raw.lstrip().startswith(b"{"):
        errors.add(location, "must be an object")
        return {}
    members, slips = _known_members(model, raw, location, errors)
    lists = {}
    for name, (_, most) in _lists(model).items():
        items = items_of(members[name]) if members.get(name, b"")[:1] == b"[" else []
        errors.items += len(items)
        if items:  # pydantic refuses an empty list
            lists[name] = items
            del members[name]
        if len(items) > most:
            errors.add((*location, name), f"has more than {most:,} items")
    try:
        model.model_validate_json(_short(members, location, errors))
    except ValidationError as error:
        for inner, message in messages_of(error):
            slip = slips.get(inner[0]) if message == MISSING else None
            if slip is not None:
                errors.add((*location, *inner), f"{message}; {slip} {UNKNOWN}")
            elif inner[0] not in lists:
                errors.add((*location, *inner), message)
    return lists


def _known_members(
    model: type[Body], raw: bytes, location: Location, errors: _Errors
) -> tuple[dict[str, bytes], dict[int | str, str]]:
    """Return the known members of an object, and the unknown ones by the name they resemble."""
    known = model.model_fields
    members: dict[str, bytes] = {}
    slips: dict[int | str, str] = {}
    for name, value in members_of(raw, len(known) + errors.most):
        if name in members:
            errors.add((*location, name), "appears twice")
        elif name in known:
            members[name] = value
        else:
            meant = near(name, known) if errors.looks_for_more else None
            if meant is not None:
                slips[meant] = name
            errors.add((*location, name), unknown_member(meant, known))
    return members, slips


def _short(members: Mapping[str, bytes], location: Location, errors: _Errors) -> bytes:
    """Return an object with these members, shortened without changing their validity."""
    return _object(
        {
            name: _short_object(value, (*location, name), errors)
            if value[:1] == b"{"
            else _short_value(value)
            for name, value in members.items()
        }
    )


def _short_object(raw: bytes, location: Location, errors: _Errors) -> bytes:
    """Return an object with the members that are checked; add errors for repeated ones."""
    members: dict[str, bytes] = {}
    for name, value in members_of(raw, errors.most):
        if name in members:
            errors.add((*location, name), "appears twice")
        members[name] = _short_value(value)
    return _object(members)


def _object(members: Mapping[str, bytes]) -> bytes:
    written = (b"%b:%b" % (msgspec.json.encode(name), value) for name, value in members.items())
    return b"{%b}" % b",".join(written)


def _short_value(value: bytes) -> bytes:
    """Return the value; replace a long one by a short one that is refused for the same reason."""
    if value[:1] == b"[":
        return b"[%b]" % b",".join(map(_short_item, items_of(value)[:ITEMS_MAX]))
    return _short_item(value)


def _short_item(value: bytes) -> bytes:
    """Return the value, short; of a list or an object only its kind matters here.

    Pydantic would refuse the whole body, without a path, for a number of thousands of digits or for
    deep nesting anywhere in it.
    """
    match value[:1]:
        case b'"' if len(value) > LEAF_MAX:
            return b'"%b"' % (b"x" * LEAF_MAX)
        case b'"' | b"t" | b"f" | b"n":
            return value
        case b"[":
            return b"[]"
        case b"{":
            return b"{}"
    if len(value) <= NUMBER_MAX:
        return value
    return value[:NUMBER_MAX] if value.lstrip(b"-").isdigit() else b"0.5"


@cache
def _lists(model: type[Body]) -> Mapping[str, tuple[type[Body], int]]:
    """Return the members that are lists of objects, with the objects' model and the maximum."""
    found: dict[str, tuple[type[Body], int]] = {}
    for name, field in model.model_fields.items():
        for kind, notes in _kinds(field.annotation, field.metadata):
            if get_origin(kind) is list and issubclass(get_args(kind)[0], Body):
                most = next(note.max_length for note in notes if hasattr(note, "max_length"))
                found[name] = get_args(kind)[0], most
    return found


def _kinds(annotation: Any, notes: Sequence[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Yield each type of a union with its metadata."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        for note in more:
            notes = [*notes, *(note.metadata if isinstance(note, FieldInfo) else [note])]
        yield from _kinds(inner, notes)
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _kinds(one, notes)
    else:
        yield annotation, notes
