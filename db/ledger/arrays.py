"""Columns of rows as the text of PostgreSQL's arrays, the cheapest form for both sides.

asyncpg inspects each element of an array to find its depth, and PostgreSQL takes JSON apart row by
row and name by name (docs/decisions.md, 16). The text of an array differs from a list in JSON only
by its brackets and by its escapes of control characters, so a fast encoder for JSON writes it.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)")
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def array(values: Iterable[Any]) -> str:
    """Return the values as the text of a one-dimensional array, None as NULL.

    A value is None, a boolean, a number, or one that JSON writes as a string: a text, a moment or a
    UUID.
    """
    text = _encode(list(values)).decode()[1:-1]
    if "\\" in text:
        text = _ESCAPE.sub(_unescaped, text)
    return f"{{{text}}}"


def arrays(rows: Iterable[tuple[Any, ...]], width: int) -> list[str]:
    """Turn rows into `width` arrays, one for each column, as `unnest` takes them."""
    return [array(column) for column in zip(*rows, strict=True)] or ["{}"] * width


def unnest(*columns: str) -> str:
    """Return the FROM item for such arrays; each is a parameter and a type: `"seqs text"`."""
    pairs = (column.split(" ", 1) for column in columns)
    return (
        f"unnest({', '.join(f'CAST(CAST(:{name} AS text) AS {kind}[])' for name, kind in pairs)})"
    )


def json_text(value: Any) -> str | None:
    """Return a value for a column of type json, None as NULL."""
    return None if value is None else _encode(value).decode()


def _unescaped(escape: re.Match[str]) -> str:
    """Return a control character as itself; keep the escapes of quotes and backslashes."""
    sign = escape[1]
    if len(sign) > 1:
        return chr(int(sign[1:], 16))
    return _CONTROLS.get(sign, escape[0])
