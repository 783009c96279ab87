"""SQL is only in `db`: no string in `service` is an SQL statement or a part of one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[1] / "service"
STATEMENT = re.compile(
    r"\b(SELECT|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|FOR\s+UPDATE|SET\s+LOCAL"
    r"|(CREATE|DROP|ALTER|TRUNCATE|LOCK)\s+(UNIQUE|INDEX|TABLE|DATABASE|SCHEMA|ROLE))\b"
)
"""Statements in capitals: all our SQL is written so, and prose about SQL is not."""


def statements(source: str) -> list[str]:
    """Return the strings of a module that contain SQL, except docstrings."""
    return [text for text in strings(ast.parse(source)) if STATEMENT.search(text)]


def strings(tree: ast.Module) -> Iterator[str]:
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documents:
            yield str(node.value)


@pytest.mark.parametrize("path", sorted(SERVICE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_of_the_service_writes_sql(path):
    assert statements(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        'STOCK = "SELECT available FROM stock"',
        'await connection.execute(f"DELETE FROM {table}")',
        'run("""\n    INSERT\n    INTO stock VALUES ($1)""")',
        'run("UPDATE stock SET available = 0")',
        'run(f"CREATE DATABASE {name}")',
        'run("WITH a AS (SELECT 1) " "TABLE a")',
    ],
)
def test_a_planted_statement_is_found(source):
    assert len(statements(source)) == 1


def test_prose_about_sql_is_not_taken_for_a_statement():
    assert statements('"""SELECT … FOR UPDATE."""\nname = "select, then insert"') == []
