"""What a failure of the database means: none that comes with connections is the service's own."""

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

LOST, AWAY, LOCKED, BUG = ConnectionLost, StoreUnavailable, LockTimeout, DatabaseError


def failure(state: str, *, routine: str = "") -> Any:
    return asyncpg.PostgresError.new({"S": "ERROR", "C": state, "M": "failed", "R": routine})


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("08003", LOST),
        ("08006", LOST),
        ("08P01", LOST),  # most of what PgBouncer says: query_wait_timeout, server conn crashed
        ("57P01", LOST),
        ("57P02", LOST),
        ("57P03", LOST),
        ("57P05", LOST),  # idle_session_timeout
        ("25P03", LOST),  # idle_in_transaction_session_timeout
        ("25P04", LOST),  # transaction_timeout
        ("26000", LOST),  # a statement's name that a pooler has lost
        ("42P05", LOST),  # or met twice
        ("XX000", LOST),
        ("58030", LOST),
        ("28P01", LOST),
        ("3D000", LOST),
        ("53300", AWAY),
        ("53100", AWAY),
        ("25006", AWAY),
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
        failure("0A000", routine="RevalidateCachedQuery"),  # an outdated plan, after a migration
    ],
    ids=repr,
)
def test_what_another_connection_would_not_meet_is_a_lost_one(error):
    assert type(meaning_of(error)) is ConnectionLost


async def test_a_result_whose_types_a_migration_has_changed_is_asked_for_again(
    database, database_url
):
    """A prepared statement's description is outdated then, until it is prepared anew."""

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
    """Leave it a single one, so that everything meets what was prepared before."""
    others = [await database.pool.take() for _ in range(3)]
    yield
    for connection in others:
        await database.pool.give_back(connection)


@pytest.mark.parametrize(
    ("state", "rolled_back"),
    [("40001", True), ("25P03", True), ("53100", True), ("08P01", False), ("57P01", False)],
)
def test_at_commit_only_what_postgresql_says_itself_is_sure(state, rolled_back):
    assert has_rolled_back(failure(state)) is rolled_back
