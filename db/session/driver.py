"""A session with PostgreSQL: what we rely on in it, and what the driver's connection knows of it.

A session is ours alone, or it is shared: a pooler in transaction mode gives it to us from BEGIN to
COMMIT and to others in between. On a session of ours the settings are in force from its start, and
statements are prepared once. On a shared one each BEGIN brings the settings along, in the same
round trip, and statements have no name that a pooler could lose (docs/decisions.md, 27).
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long anything may wait for the database, in seconds."""

    pool: float = 0.5  # a longer queue for a connection is a hang, not patience
    connect: float = 2.0  # a frozen server accepts and then says nothing
    check: float = 0.5  # for BEGIN on a connection that has been idle: it may lead nowhere
    lock: float = 1.0  # longer than any commit of ours, short enough to split a stuck batch
    statement: float = 4.0  # the largest batch takes well under one second
    transaction: float = 5.0  # seen from here, should the server itself be frozen
    settle: float = 3.0  # to find out what became of a COMMIT


NEVER_SCANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
"""Planner settings switched off on our connections: the ledger only looks keys up. A plan cached
while a table was empty must not scan it when it is full, and a nested loop in the order of its
keys is what makes every transaction lock rows in the same order. `scanning` lifts them."""

HISTORY = """
    SELECT concat_ws('/', system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
                     (SELECT stats_reset FROM pg_stat_bgwriter))
    FROM pg_control_system() WHERE NOT pg_is_in_recovery()
"""
"""Which cluster, on which timeline, since which crash: a transaction's id means nothing beyond.

A promotion begins another timeline, on which the id may be another transaction's. So it may be
after a crash: PostgreSQL gives an id out again if nothing of its transaction had reached the disk;
and it resets its statistics then, but not at an orderly restart. A standby has no history to go
by, for it may be promoted under a connection.
"""

NOTED_HISTORY = "current_setting('holdfast.history', true)"
"""The history that BEGIN has noted in a shared session; NULL in one of ours."""

IDENTITY = f"CAST(pg_current_xact_id() AS text) AS transaction_id, {NOTED_HISTORY} AS history"
"""The columns of `Transaction.note`: what a COMMIT without an answer is asked for by."""

INTRODUCTION = {
    "application_name": "holdfast",
    # A firewall between us forgets a silent connection after minutes, often five. PostgreSQL
    # asks for a sign of life before, and so notices a service that is gone.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""Asked for when a session of ours begins, and not missed where it isn't in force."""


def relied_on(timeouts: Timeouts) -> dict[str, str]:
    """Return the settings that must be in force, whatever the role or the database has."""
    return {
        "client_encoding": "UTF8",  # the driver's texts
        "TimeZone": "UTC",  # moments compared with a date alone
        "array_nulls": "on",  # rows travel as arrays in text: NULL is no word there
        "standard_conforming_strings": "on",  # a backslash in a literal is a backslash
        "exit_on_error": "off",  # a lost race must not cost the session
        "lock_timeout": milliseconds(timeouts.lock),
        "statement_timeout": milliseconds(timeouts.statement),
        "idle_in_transaction_session_timeout": milliseconds(timeouts.transaction),
        "jit": "off",  # compiling costs more than any statement of ours
        "plan_cache_mode": "force_generic_plan",  # planning costs more than running them, too
        "enable_nestloop": "on",  # see NEVER_SCANS
        "enable_indexscan": "on",
        **dict.fromkeys(NEVER_SCANS, "off"),
    }


RELIED_ON_SINCE = {"transaction_timeout": "0"}
"""Settings that not every version has, so that asking for them at the start would be refused."""


class Driver(asyncpg.Connection):
    """The driver's connection, and what is known of the session at its other end."""

    __slots__ = ("_described", "history", "made_at", "preamble", "used_at")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.made_at = time.monotonic()
        self.used_at: float | None = None
        """When its last use was over; None before the first."""
        self.history: str | None = None
        """The history of the database that a session of ours belongs to."""
        self.preamble = ""
        """Follows BEGIN in a shared session: puts the settings in force and notes the history."""
        self._described: dict[str, PreparedStatement[Any]] = {}

    @property
    def is_shared(self) -> bool:
        """True when others may have the session between our transactions."""
        return bool(self.preamble)

    async def run(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """Run a statement in one round trip and return its rows.

        In a session of ours it is prepared once. In a shared one it is parsed anew each time, and
        only its description is kept; so the types of its result must not change with the schema.
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
    """What a session is like."""

    process_id: int
    is_standby: bool
    is_read_only: bool
    history: str | None
    known: frozenset[str]
    """Which of the wanted settings this version has."""
    different: frozenset[str]
    """Which of them have another value."""


async def examine(driver: Driver, wanted: Mapping[str, str]) -> Findings:
    """Look at a session, inside a transaction and without leaving a prepared statement behind."""
    question = await driver.prepare(
        f"""
        SELECT pg_backend_pid() AS process_id, pg_is_in_recovery() AS is_standby,
            current_setting('default_transaction_read_only') = 'on' AS is_read_only,
            ({HISTORY}) AS history,
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


def settings_put(settings: Mapping[str, str], *, for_session: bool) -> str:
    """Return the statement that puts settings in force, for the session or the transaction."""
    return "SELECT " + ", ".join(_put(settings.items(), is_local=not for_session))


def preamble_of(settings: Mapping[str, str]) -> str:
    """Return what follows BEGIN in a shared session."""
    history = f"pg_catalog.set_config('holdfast.history', ({HISTORY}), true)"
    return "; " + settings_put(settings, for_session=False) + f", {history}"


def _put(settings: Iterable[tuple[str, str]], *, is_local: bool) -> Iterable[str]:
    for name, value in settings:
        yield f"pg_catalog.set_config({_quoted(name)}, {_quoted(value)}, {str(is_local).lower()})"


def _quoted(text: str) -> str:
    """A literal that means the same whether a backslash escapes or not."""
    quoted = text.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"


def milliseconds(seconds: float) -> str:
    """Return a duration as PostgreSQL's settings want it."""
    return str(int(seconds * 1000))
