"""Columns of rows as PostgreSQL reads arrays in text, which costs both sides least.

asyncpg looks at each element of an array to find out how deep it is nested, and JSON is taken apart
row by row, name by name (docs/decisions.md, 16). A list in JSON differs from an array in text by
its brackets and by its escapes of control characters, and JSON is what there is a fast encoder for.
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

    Takes what JSON has a word for, and what is a string there: text, moments, UUIDs.
    """
    text = _encode(list(values)).decode()[1:-1]
    if "\\" in text:
        text = _ESCAPE.sub(_unescaped, text)
    return f"{{{text}}}"


def arrays(rows: Iterable[tuple[Any, ...]], width: int) -> list[str]:
    """Turn rows into `width` arrays, one for each column, as `unnest` takes them."""
    return [array(column) for column in zip(*rows, strict=True)] or ["{}"] * width


def unnest(*columns: str) -> str:
    """Return the FROM item of such arrays, each the parameter and the type: `"seqs text"`."""
    pairs = (column.split(" ", 1) for column in columns)
    return (
        f"unnest({', '.join(f'CAST(CAST(:{name} AS text) AS {kind}[])' for name, kind in pairs)})"
    )


def json_text(value: Any) -> str | None:
    """Return a value for a column of type json, None as NULL."""
    return None if value is None else _encode(value).decode()


def _unescaped(escape: re.Match[str]) -> str:
    """A control character as itself; a quote or a backslash stays escaped, as an array has it."""
    sign = escape[1]
    if len(sign) > 1:
        return chr(int(sign[1:], 16))
    return _CONTROLS.get(sign, escape[0])
