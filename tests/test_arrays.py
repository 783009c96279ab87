"""Columns reach PostgreSQL unchanged, with quotes, backslashes and control characters."""

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.ledger import arrays as module
from db.ledger.arrays import array, arrays, json_text, unnest

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
SPECIAL = [
    "",
    "null",
    "NULL",
    "{}",
    "{a,b}",
    '"',
    "\\",
    '\\"',
    "a,b",
    " a ",
    "\n",
    "\\n",
    "\\\n",
    "é",
    "🛒",
]


@pytest.fixture(scope="session")
async def connection(postgres_url):
    opened = await asyncpg.connect(postgres_url)
    yield opened
    await opened.close()


async def read(connection, text, kind="text"):
    return await connection.fetchval(f"SELECT CAST(CAST($1 AS text) AS {kind}[])", text)


async def test_texts_with_special_characters_arrive_unchanged(connection):
    assert await read(connection, array(SPECIAL)) == SPECIAL


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | TEXT, max_size=5))
async def test_every_text_arrives_unchanged(connection, values):
    assert await read(connection, array(values)) == values


async def test_without_unescaping_a_line_break_becomes_an_n(connection, monkeypatch):
    monkeypatch.setattr(module, "_unescaped", lambda escape: escape[0])
    assert await read(connection, array(["a\nb"])) == ["anb"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uuid", [UUID(int=7), None]),
        ("bigint", [2**63 - 1, -1, None]),
        ("boolean", [True, False, None]),
        ("timestamptz", [datetime(2026, 1, 2, 3, 4, 5, 6, UTC), None]),
        ("json", [json_text({"a\nb": 'c"\\'}), None]),
    ],
)
async def test_every_kind_of_column_arrives_unchanged(connection, kind, values):
    assert await read(connection, array(values), kind) == values


async def test_rows_become_columns_and_then_rows_again(connection):
    rows = [("a", 1), ("b", None)]
    sql = f"SELECT * FROM {unnest('names text', 'numbers int')} AS new(name, number)"
    sql = sql.replace(":names", "$1").replace(":numbers", "$2")
    assert [tuple(row) for row in await connection.fetch(sql, *arrays(rows, 2))] == rows
    assert await connection.fetch(sql, *arrays([], 2)) == []
