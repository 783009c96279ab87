"""A part of the statement that applies a plan: the rows for one table, as typed arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from db.ledger.arrays import arrays, unnest


def column_names(columns: str) -> list[str]:
    """Return the names of typed columns: `"id uuid, seq text"` → `["id", "seq"]`."""
    return [column.split()[0] for column in columns.split(", ")]


@dataclass(frozen=True)
class Part:
    """One part of the statement: the rows for a table, and the SQL that writes them."""

    name: str
    columns: str
    """The columns of the rows with their types: `"id uuid, seq text"`."""
    sql: str
    """`{rows}` stands for the rows, `{gate}` for the condition that earlier parts are complete."""
    gates: bool = False
    """Later parts write only if this one has written all of its rows."""

    @cached_property
    def parameter_names(self) -> list[str]:
        """The names of the parameters, one for each column."""
        return [f"{self.name}_{column}" for column in column_names(self.columns)]

    @property
    def source(self) -> str:
        """The rows as a FROM item with named columns."""
        typed = (f"{self.name}_{column}" for column in self.columns.split(", "))
        return f"{unnest(*typed)} AS new({', '.join(column_names(self.columns))})"

    @property
    def is_complete(self) -> str:
        """The condition that the part has written all of its rows."""
        return f"(SELECT count(*) FROM {self.name}) = CAST(:{self.name}_rows AS int)"

    def parameters(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """Return the rows, column by column, and their number."""
        names = self.parameter_names
        values = arrays(rows, len(names))
        return {**dict(zip(names, values, strict=True)), f"{self.name}_rows": len(rows)}


def insertion(table: str, columns: str) -> Part:
    """Return the part that inserts rows with unique keys, except rows whose key exists."""
    return Part(
        f"{table}_created",
        columns,
        f"""
        INSERT INTO {table} ({", ".join(column_names(columns))})
        SELECT * FROM {{rows}}
        ON CONFLICT DO NOTHING
        RETURNING 1
        """,
        gates=True,
    )


def line_insertion(table: str, columns: str) -> Part:
    """Return the part that inserts the lines of rows that an earlier part has inserted."""
    return Part(
        f"{table}_created",
        columns,
        f"""
        INSERT INTO {table} ({", ".join(column_names(columns))})
        SELECT * FROM {{rows}}
        WHERE {{gate}}
        RETURNING 1
        """,
    )


def by_name(parts: Iterable[Part]) -> dict[str, Part]:
    """Return the parts by their names."""
    return {part.name: part for part in parts}
