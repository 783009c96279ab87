"""The driver's connection with facts about its session, and the query that finds them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from db.session import configuration


class Driver(asyncpg.Connection):
    """A connection of asyncpg that also keeps facts about its session."""

    __slots__ = ("_described", "history", "made_at", "preamble", "used_at")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.made_at = time.monotonic()
        self.used_at: float | None = None
        """The time at which its last use ended (`time.monotonic`); None before its first use."""
        self.history: str | None = None
        """The history of the database, in an exclusive session."""
        self.preamble = ""
        """Follows BEGIN in a shared session: applies the settings and notes the history."""
        self._described: dict[str, PreparedStatement[Any]] = {}

    @property
    def is_shared(self) -> bool:
        """True when the session serves other clients between our transactions."""
        return bool(self.preamble)

    async def run(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """Run a statement in one round trip and return its rows.

        In an exclusive session the statement is prepared once. In a shared one it is parsed each
        time and only its description is kept, so a migration must not change the types of its
        result.
        """
        if not self.is_shared:
            found: list[asyncpg.Record] = await self.fetch(sql, *values)
            return found
        statement = self._described.get(sql)
        if statement is None:
            statement = self._described[sql] = await self.prepare(sql, name="")
        return await statement.fetch(*values)


@dataclass(frozen=True, slots=True)
class Findings:
    """The facts that `examine` has read from a session."""

    process_id: int
    is_standby: bool
    is_read_only: bool
    history: str | None
    known: frozenset[str]
    """The wanted settings that this version of PostgreSQL has."""
    different: frozenset[str]
    """The wanted settings that have another value in the session."""


async def examine(driver: Driver, wanted: Mapping[str, str]) -> Findings:
    """Read the facts about a session, in a transaction and without a lasting prepared statement."""
    question = await driver.prepare(
        f"""
        SELECT pg_backend_pid() AS process_id, pg_is_in_recovery() AS is_standby,
            current_setting('default_transaction_read_only') = 'on' AS is_read_only,
            ({configuration.HISTORY}) AS history,
            array_agg(name) AS known,
            array_agg(name) FILTER (WHERE setting <> value) AS different
        FROM unnest($1::text[], $2::text[]) AS wanted(name, value) JOIN pg_settings USING (name)
        """,
        name="",
    )
    found = await question.fetchrow(list(wanted), list(wanted.values()))
    assert found is not None  # noqa: S101 - an aggregate has one row
    return Findings(
        found["process_id"],
        found["is_standby"],
        found["is_read_only"],
        found["history"],
        frozenset(found["known"] or ()),
        frozenset(found["different"] or ()),
    )
