"""An import's file, a CSV, line by line: each becomes a row, or what is wrong with it in words."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from service.input.bodies import UNITS_MAX, Place, StockName
from service.input.messages import listed, message_of, near

Row: TypeAlias = tuple[str, str, int, str | None]
"""(sku, location, available, name)"""

COLUMNS = ("sku", "location", "available", "name")
REQUIRED = ("sku", "available")
AVAILABLE_DIGITS_MAX = len(str(UNITS_MAX))
SHOWN_MAX = 32  # characters of a wrong value that are told

_place = TypeAdapter(Place)
_name = TypeAdapter(StockName)


class _WrongLineError(ValueError):
    """A line can't be imported; the message says why."""


def lines_of(raw: bytes) -> Iterator[tuple[int, Row | str]]:
    """Read the lines that have something in them: the number of each, and its row or its fault.

    The first may be a header, which names the columns. After a fault of the file as a whole no line
    follows.
    """
    text = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    columns: _Columns | None = None
    line = 1
    try:
        for fields in reader:
            if fields and columns is None and _is_header(fields):
                columns = _Columns([_column(name) for name in fields])
            elif fields:
                columns = columns or WITHOUT_HEADER
                yield line, _row_or_fault(fields, columns)
            line = reader.line_num + 1
    except (_WrongLineError, csv.Error) as error:
        yield line, _CSV_FAULTS.get(str(error), str(error))
    except UnicodeDecodeError:
        yield _line_of_other_encoding(raw), "it is not UTF-8: save the file in this encoding"


class _Columns:
    """Where in a line each column is. Raises `_WrongLineError` about a header's names."""

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in COLUMNS:
                meant = near(name, COLUMNS)
                hint = f"did you mean {meant}?" if meant else f"there {listed(COLUMNS)}"
                raise _WrongLineError(f"the column {_shown(name)} is not known; {hint}")
            if names.count(name) > 1:
                raise _WrongLineError(f"the column {name} is there twice")
        for name in REQUIRED:
            if name not in names:
                raise _WrongLineError(f"there is no column {name}")
        self.names = names
        self.sku, self.available = names.index("sku"), names.index("available")
        self.location = names.index("location") if "location" in names else None
        self.name = names.index("name") if "name" in names else None
        self.fields_min = max(self.sku, self.available) + 1


WITHOUT_HEADER = _Columns(COLUMNS)

_CSV_FAULTS = {
    "unexpected end of data": "a quote is never closed",
    "',' expected after '\"'": "text follows a closing quote; write a quote in a field twice",
    f"field larger than field limit ({csv.field_size_limit()})": (
        f"a field has more than {csv.field_size_limit():,} characters: is its quote closed?"
    ),
}


def _is_header(fields: Sequence[str]) -> bool:
    """True when a first line names columns; as a row it would have a number."""
    names = {_column(field) for field in fields}
    return not names.isdisjoint(COLUMNS) and not any(name.isdecimal() for name in names)


def _column(field: str) -> str:
    return field.strip().lower()


def _row_or_fault(fields: Sequence[str], columns: _Columns) -> Row | str:
    try:
        return _row(fields, columns)
    except _WrongLineError as error:
        return str(error)


def _row(fields: Sequence[str], columns: _Columns) -> Row:
    if not columns.fields_min <= len(fields) <= len(columns.names):
        separator = "; separate them with commas" if len(fields) == 1 else ""
        raise _WrongLineError(
            f"there are {len(fields)} fields, not those of {','.join(columns.names)}{separator}"
        )
    location = _field(fields, columns.location)
    name = _field(fields, columns.name)
    return (
        _valid(_place, "sku", fields[columns.sku]),
        _valid(_place, "location", location) if location else "main",
        _available(fields[columns.available]),
        _valid(_name, "name", name) if name else None,
    )


def _field(fields: Sequence[str], place: int | None) -> str:
    """A field that may be left out, with its column or at the end of its line."""
    return "" if place is None or place >= len(fields) else fields[place]


def _valid(kind: TypeAdapter[str], column: str, text: str) -> str:
    try:
        return kind.validate_python(text)
    except ValidationError as error:
        raise _WrongLineError(f"{column} {message_of(error)}") from None


def _available(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= AVAILABLE_DIGITS_MAX:
        available = int(text)
        if available <= UNITS_MAX:
            return available
    if not text:
        raise _WrongLineError("available is empty")
    raise _WrongLineError(
        f"available is not a whole number from 0 to {UNITS_MAX:,}: {_shown(text)}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…")


def _line_of_other_encoding(raw: bytes) -> int:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return raw.count(b"\n", 0, error.start) + 1
    raise AssertionError("this file is UTF-8")
