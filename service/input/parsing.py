"""From bytes to bodies: validated at once if all is well, else looked into until enough is wrong.

A body that is right is read by pydantic in one go. Any other is taken apart, member by member: what
is wrong is named, a hundred values at most, and there parsing stops. So a body of a million
mistakes costs about what a good one costs (docs/decisions.md, "A hundred mistakes").
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
from service.input.messages import MISSING, near, told, unknown_member
from service.input.pace import Pace

B = TypeVar("B", bound=Body)
Location: TypeAlias = tuple[int | str, ...]
"""Where in a body a value is: the names and indexes that lead there."""

BATCH_ERRORS_MAX = ERRORS_MAX
"""How many wrong values the answer to a batch names; beyond it one for each bad entry."""

SMALL = 256 * 1024
"""Bytes of a body that can't cost much, whatever is in it."""

VALUES_MAX = 10_000
"""More commas and brackets than any good body but a batch has, unless they stand in texts."""

LEAF_MAX = 16 * 1024
"""Bytes of a value other than an object; a thousand characters, each escaped twice, have 12,000."""

NUMBER_MAX = 100
"""Digits of a number; one that is wrong is wrong with fewer as well."""

STEP_MAX = 64
"""Characters of a member's name in a path."""


class InvalidEntry(NamedTuple):
    """A batch's entry that is no reservation, with what is wrong about it."""

    error: InvalidRequest


def parse(model: type[B], raw: bytes) -> B:
    """Validate a body from its bytes. Raises `InvalidRequest` that names the wrong values."""
    raw = raw.removeprefix(BOM)
    body = _at_once(model, raw)
    return body if body is not None else _step_by_step(model, _well_formed(raw), _Errors())


async def parse_batch(raw: bytes) -> list[ReserveBody | InvalidEntry]:
    """Read a batch, entry by entry, with rests. Raises `InvalidRequest` about the whole."""
    pace = Pace()
    raw = _well_formed(raw.removeprefix(BOM))
    await pace.rest()
    entries: list[ReserveBody | InvalidEntry] = []
    left, lines = BATCH_ERRORS_MAX, 0
    for raw_entry in _raw_entries(raw):
        await pace.rest()
        entry: ReserveBody | InvalidEntry | None = _at_once(ReserveBody, raw_entry)
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
    """Return the refusal that names each wrong value by its path and says what is wrong."""
    errors = _Errors()
    with suppress(_Full):
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


def _at_once(model: type[B], raw: bytes) -> B | None:
    """Return the body, if it is good; None if it is not, or might cost too much to read."""
    if len(raw) > SMALL and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUES_MAX:
        return None
    try:
        body = model.model_validate_json(raw)
    except ValidationError:
        return None
    return body if _has_no_others(body, raw) else None


def _has_no_others(body: Body, raw: bytes) -> bool:
    """True when the JSON has no members but the body's, each once; a colon may stand in a text."""
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
    with suppress(_Full):
        entries = _look_at(BatchBody, raw, (), errors)
    errors.refuse()
    return entries["reservations"]


def _entry(raw: bytes, errors: "_Errors") -> ReserveBody | InvalidEntry:
    try:
        return _step_by_step(ReserveBody, raw, errors)
    except InvalidRequest as error:
        return InvalidEntry(error.as_value())


def _step_by_step(model: type[B], raw: bytes, errors: "_Errors") -> B:
    """Return a body that only looked as if it were too large, or raise what is wrong with it."""
    if is_too_deep(raw):
        raise InvalidRequest.at("body", TOO_DEEP)
    with suppress(_Full):
        _look_into(model, raw, (), errors)
    errors.refuse()
    body = model.model_validate_json(raw)
    if not _has_no_others(body, raw):
        raise InvalidRequest.at("body", "has members that are not known here, or are named twice")
    return body


class _Full(Exception):
    """As many errors were found as are told."""


class _Errors:
    """What was found wrong with a body, up to a number; and how many list items were seen."""

    def __init__(self, most: int = ERRORS_MAX, *, looks_for_more: bool = True) -> None:
        self.found: list[dict[str, str]] = []
        self.most = most
        self.looks_for_more = looks_for_more
        self.is_truncated = False
        self.items = 0

    def add(self, location: Location, message: str) -> None:
        """Note an error. Raises `_Full` when there is no room for it, or for none after it."""
        is_full = len(self.found) == self.most
        if not is_full:
            self.found.append({"path": path(location), "message": message})
        if is_full or not self.looks_for_more:
            self.is_truncated = True
            raise _Full

    def add_all(self, location: Location, error: ValidationError) -> None:
        """Note what pydantic found wrong with the value at a location."""
        for place, message in told(error):
            self.add((*location, *place), message)

    def refusal(self) -> InvalidRequest:
        """Return the refusal."""
        return InvalidRequest.of(self.found, truncated=self.is_truncated)

    def refuse(self) -> None:
        """Raise the refusal if there is any error."""
        if self.found:
            raise self.refusal()


def _look_into(model: type[Body], raw: bytes, location: Location, errors: _Errors) -> None:
    """Note what is wrong with an object, and with those objects in its lists that are not good."""
    for name, items in _look_at(model, raw, location, errors).items():
        kind, most = _lists(model)[name]
        for index, item in enumerate(items[:most]):
            if _at_once(kind, item) is None:
                _look_into(kind, item, (*location, name, index), errors)


def _look_at(
    model: type[Body], raw: bytes, location: Location, errors: _Errors
) -> Mapping[str, list[bytes]]:
    """Note what is wrong with an object by itself; return the items of its lists of objects."""
    if not raw.lstrip().startswith(b"{"):
        errors.add(location, "must be an object")
        return {}
    members, slips = _known_members(model, raw, location, errors)
    lists = {}
    for name, (_, most) in _lists(model).items():
        items = items_of(members[name]) if members.get(name, b"")[:1] == b"[" else []
        errors.items += len(items)
        if items:  # an empty list is pydantic's to refuse
            lists[name] = items
            del members[name]
        if len(items) > most:
            errors.add((*location, name), f"has more than {most:,} items")
    try:
        model.model_validate_json(_short(members, location, errors))
    except ValidationError as error:
        for place, message in told(error):
            slip = slips.get(place[0]) if message == MISSING else None
            if slip is not None:
                errors.add((*location, *place), f"{message}; {slip} is not a member here")
            elif place[0] not in lists:
                errors.add((*location, *place), message)
    return lists


def _known_members(
    model: type[Body], raw: bytes, location: Location, errors: _Errors
) -> tuple[dict[str, bytes], dict[int | str, str]]:
    """Return an object's members that the model has, and the unknown ones by what they are near."""
    known = model.model_fields
    members: dict[str, bytes] = {}
    slips: dict[int | str, str] = {}
    for name, value in members_of(raw, len(known) + errors.most):
        if name in members:
            errors.add((*location, name), "is named twice")
        elif name in known:
            members[name] = value
        else:
            meant = near(name, known) if errors.looks_for_more else None
            if meant is not None:
                slips[meant] = name
            errors.add((*location, name), unknown_member(meant, known))
    return members, slips


def _short(members: Mapping[str, bytes], location: Location, errors: _Errors) -> bytes:
    """Return an object with these members, each of them short and as good or bad as it was."""
    return _object(
        {
            name: _short_object(value, (*location, name), errors) if value[:1] == b"{" else value
            for name, value in members.items()
        }
    )


def _short_object(raw: bytes, location: Location, errors: _Errors) -> bytes:
    """Return an object with as many members as are looked at; note the ones it names twice."""
    members: dict[str, bytes] = {}
    for name, value in members_of(raw, errors.most):
        if name in members:
            errors.add((*location, name), "is named twice")
        members[name] = value
    return _object(members)


def _object(members: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(
        b"%b:%b" % (msgspec.json.encode(name), _short_value(value))
        for name, value in members.items()
    )


def _short_value(value: bytes) -> bytes:
    """Return the value, or instead of a long one another that is refused for the same reason."""
    match value[:1]:
        case b'"' | b"[" | b"{" | b"t" | b"f" | b"n" if len(value) <= LEAF_MAX:
            return value
        case b'"':
            return b'"%b"' % (b"x" * LEAF_MAX)
        case b"[":
            return b"[]"
        case b"{":
            return b"{}"
    if len(value) <= NUMBER_MAX:
        return value
    return value[:NUMBER_MAX] if value.lstrip(b"-").isdigit() else b"0.5"


@cache
def _lists(model: type[Body]) -> Mapping[str, tuple[type[Body], int]]:
    """The members of a model that are lists of objects: each one's model, and how many at most."""
    found: dict[str, tuple[type[Body], int]] = {}
    for name, field in model.model_fields.items():
        for kind, notes in _kinds(field.annotation, field.metadata):
            if get_origin(kind) is list and issubclass(get_args(kind)[0], Body):
                most = next(note.max_length for note in notes if hasattr(note, "max_length"))
                found[name] = get_args(kind)[0], most
    return found


def _kinds(annotation: Any, notes: Sequence[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Every type that a union has, with what is noted about it."""
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
