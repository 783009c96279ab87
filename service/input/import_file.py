"""Reads the CSV file of an import line by line: each line becomes a row or an error message."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from service.domain.stock import AVAILABLE_MAX
from service.input.bodies import PathName, StockName
from service.input.messages import joined, message_of, near

Row: TypeAlias = tuple[str, str, int, str | None]
"""(sku, location, available, name)"""

COLUMNS = ("sku", "location", "available", "name")
REQUIRED = ("sku", "available")
AVAILABLE_DIGITS_MAX = len(str(AVAILABLE_MAX))
SHOWN_MAX = 32  # characters of a wrong value that a message shows

_path_name = TypeAdapter(PathName)
_name = TypeAdapter(StockName)


class _WrongLineError(ValueError):
    """A line can't be imported; the message names the reason."""


def lines_of(raw: bytes) -> Iterator[tuple[int, Row | str]]:
    """Yield the number of each line that is not empty, and its row or an error message.

    The first line may be a header, which names the columns. After an error of the whole file, no
    line follows.
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
                yield line, _row_or_message(fields, columns)
            line = reader.line_num + 1
    except (_WrongLineError, csv.Error) as error:
        yield line, _CSV_ERRORS.get(str(error), str(error))
    except UnicodeDecodeError:
        yield _line_of_other_encoding(raw), "it is not UTF-8: save the file in this encoding"


class _Columns:
    """The position of each column in a line. Raises `_WrongLineError` for a wrong header."""

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in COLUMNS:
                meant = near(name, COLUMNS)
                hint = f"did you mean {meant}?" if meant else f"the columns are {joined(COLUMNS)}"
                raise _WrongLineError(f"the column {_shown(name)} is not known; {hint}")
            if names.count(name) > 1:
                raise _WrongLineError(f"the column {name} appears twice")
        for name in REQUIRED:
            if name not in names:
                raise _WrongLineError(f"there is no column {name}")
        self.names = names
        self.sku, self.available = names.index("sku"), names.index("available")
        self.location = names.index("location") if "location" in names else None
        self.name = names.index("name") if "name" in names else None
        self.fields_min = max(self.sku, self.available) + 1


WITHOUT_HEADER = _Columns(COLUMNS)

_CSV_ERRORS = {
    "unexpected end of data": "a quote is never closed",
    "',' expected after '\"'": "text follows a closing quote; double the quotes inside a field",
    f"field larger than field limit ({csv.field_size_limit()})": (
        f"a field has more than {csv.field_size_limit():,} characters: is its quote closed?"
    ),
}


def _is_header(fields: Sequence[str]) -> bool:
    """True when the first line names columns; a row would contain a number."""
    names = {_column(field) for field in fields}
    return not names.isdisjoint(COLUMNS) and not any(name.isdecimal() for name in names)


def _column(field: str) -> str:
    return field.strip().lower()


def _row_or_message(fields: Sequence[str], columns: _Columns) -> Row | str:
    try:
        return _row(fields, columns)
    except _WrongLineError as error:
        return str(error)


def _row(fields: Sequence[str], columns: _Columns) -> Row:
    if not columns.fields_min <= len(fields) <= len(columns.names):
        separator = "; separate the fields with commas" if len(fields) == 1 else ""
        raise _WrongLineError(
            f"the number of fields is {len(fields)}; expected {','.join(columns.names)}{separator}"
        )
    location = _field(fields, columns.location)
    name = _field(fields, columns.name)
    return (
        _valid(_path_name, "sku", fields[columns.sku]),
        _valid(_path_name, "location", location) if location else "main",
        _available(fields[columns.available]),
        _valid(_name, "name", name) if name else None,
    )


def _field(fields: Sequence[str], position: int | None) -> str:
    """Return an optional field; its column or the end of its line may be missing."""
    return "" if position is None or position >= len(fields) else fields[position]


def _valid(kind: TypeAdapter[str], column: str, text: str) -> str:
    try:
        return kind.validate_python(text)
    except ValidationError as error:
        raise _WrongLineError(f"{column} {message_of(error)}") from None


def _available(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= AVAILABLE_DIGITS_MAX:
        available = int(text)
        if available <= AVAILABLE_MAX:
            return available
    if not text:
        raise _WrongLineError("available is empty")
    raise _WrongLineError(
        f"available is not a whole number from 0 to {AVAILABLE_MAX:,}: {_shown(text)}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…")


def _line_of_other_encoding(raw: bytes) -> int:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return raw.count(b"\n", 0, error.start) + 1
    raise AssertionError("the file is UTF-8")
