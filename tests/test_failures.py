"""The meaning of each failure of the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.session.failures import (
    Conflict,
    ConnectionLost,
    DatabaseError,
    LockTimeout,
    StoreUnavailable,
    has_rolled_back,
    meaning_of,
)
from tests.roles import as_superuser

LOST, UNREACHABLE, LOCKED, BUG = ConnectionLost, StoreUnavailable, LockTimeout, DatabaseError


def failure(state: str, *, routine: str = "") -> Any:
    return asyncpg.PostgresError.new({"S": "ERROR", "C": state, "M": "failed", "R": routine})


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("08003", LOST),
        ("08006", LOST),
        ("08P01", LOST),  # most errors of PgBouncer: query_wait_timeout, server conn crashed
        ("57P01", LOST),
        ("57P02", LOST),
        ("57P03", LOST),
        ("57P05", LOST),  # idle_session_timeout
        ("25P03", LOST),  # idle_in_transaction_session_timeout
        ("25P04", LOST),  # transaction_timeout
        ("26000", LOST),  # a prepared statement that does not exist behind a pooler
        ("42P05", LOST),  # a prepared statement that exists already
        ("XX000", LOST),
        ("58030", LOST),
        ("28P01", LOST),
        ("3D000", LOST),
        ("53300", UNREACHABLE),
        ("53100", UNREACHABLE),
        ("25006", UNREACHABLE),
        ("55P03", LOCKED),
        ("57014", LOCKED),
        ("40001", Conflict),
        ("40P01", Conflict),
        ("0A000", BUG),
        ("42601", BUG),
        ("23514", BUG),
    ],
)
def test_each_kind_of_failure_has_one_meaning(state, meaning):
    error = failure(state)
    assert type(meaning_of(error)) is meaning
    through_sqlalchemy = DBAPIError("SELECT", {}, error)
    assert type(meaning_of(through_sqlalchemy)) is meaning


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        ConnectionResetError(),
        asyncpg.InternalClientError("got result for unknown protocol state"),
        failure("0A000", routine="RevalidateCachedQuery"),  # a stale plan, after a migration
    ],
    ids=repr,
)
def test_a_failure_of_a_single_connection_means_a_lost_connection(error):
    assert type(meaning_of(error)) is ConnectionLost


async def test_a_read_whose_types_a_migration_has_changed_is_repeated(database, database_url):
    """The description of a prepared statement is stale until it is prepared again."""

    async def migrate(sql: str) -> None:
        connection = await asyncpg.connect(as_superuser(database_url))
        await connection.execute(sql)
        await connection.close()

    async def ask(connection: Any) -> Any:
        return await connection.scalar(text("SELECT * FROM changing"))

    async with one_connection(database):
        await migrate("CREATE TABLE changing AS SELECT 1 AS n")
        await migrate("GRANT SELECT ON changing TO PUBLIC")
        assert await database.read(ask) == 1
        await migrate("ALTER TABLE changing ALTER n TYPE text")
        assert await database.read(ask) == "1"


@asynccontextmanager
async def one_connection(database: Any) -> AsyncIterator[None]:
    """Leave one connection in the pool, so that each read finds the same prepared statements."""
    others = [await database.pool.take() for _ in range(3)]
    yield
    for connection in others:
        await database.pool.give_back(connection)


@pytest.mark.parametrize(
    ("state", "rolled_back"),
    [("40001", True), ("25P03", True), ("53100", True), ("08P01", False), ("57P01", False)],
)
def test_at_commit_only_an_error_of_postgresql_itself_means_a_rollback(state, rolled_back):
    assert has_rolled_back(failure(state)) is rolled_back
