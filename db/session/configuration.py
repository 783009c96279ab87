"""The configuration of a session with PostgreSQL: its timeouts and its settings.

A session is either exclusive or shared. A shared session comes from a pooler in transaction mode:
it serves us from BEGIN to COMMIT and other clients in between. In an exclusive session the
settings hold from its start, and each statement is prepared once. In a shared session each BEGIN
sends the settings along, in the same round trip, and statements are prepared without a name, which
a pooler could lose (docs/decisions.md, 27).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The longest waits for the database, in seconds."""

    pool: float = 0.5  # a longer wait for a connection would look like a hang to the client
    connect: float = 2.0  # a frozen server accepts the connection and then sends nothing
    check: float = 0.5  # for BEGIN on a connection that was idle: its peer may be gone
    lock: float = 1.0  # longer than any COMMIT of ours, short enough to split a blocked batch
    statement: float = 4.0  # the largest batch takes well under one second
    transaction: float = 5.0  # measured here, because the server itself may be frozen
    settle: float = 3.0  # to find out whether a COMMIT without an answer succeeded


NEVER_SCANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
"""Planner settings that are off in our sessions, because the ledger only looks keys up. A plan that
was cached while a table was empty must not scan the table when it is full. And a nested loop in the
order of its keys makes every transaction lock rows in the same order. `allow_scans` turns them on
again."""

HISTORY = """
    SELECT concat_ws('/', system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
                     (SELECT stats_reset FROM pg_stat_bgwriter))
    FROM pg_control_system() WHERE NOT pg_is_in_recovery()
"""
"""The cluster, its timeline and its last crash: a transaction's id is only valid within them.

A promotion begins another timeline, on which the same id can belong to another transaction. The
same can happen after a crash: PostgreSQL assigns an id again if nothing of its transaction had
reached the disk. PostgreSQL resets its statistics after a crash, but not at an orderly restart. A
standby has no history, because it may be promoted while it is connected.
"""

NOTED_HISTORY = "current_setting('holdfast.history', true)"
"""The history that BEGIN has noted in a shared session; NULL in an exclusive one."""

IDENTITY = f"CAST(pg_current_xact_id() AS text) AS transaction_id, {NOTED_HISTORY} AS history"
"""The columns that `Transaction.note` reads: they identify a COMMIT that got no answer."""

INTRODUCTION = {
    "application_name": "holdfast",
    # A firewall on the way forgets a silent connection after minutes, often five. PostgreSQL
    # probes the connection before that, and so it also notices when a service is gone.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""Settings that are requested with a connection; nothing depends on them."""


def relied_on(timeouts: Timeouts) -> dict[str, str]:
    """Return the settings that must hold, even if the role or the database has others."""
    return {
        "client_encoding": "UTF8",  # the encoding of the driver's texts
        "TimeZone": "UTC",  # for timestamps that are compared with a date alone
        "array_nulls": "on",  # rows are sent as text of arrays: NULL is no text there
        "standard_conforming_strings": "on",  # a backslash in a literal is a backslash
        "exit_on_error": "off",  # a lost race must not end the session
        "lock_timeout": milliseconds(timeouts.lock),
        "statement_timeout": milliseconds(timeouts.statement),
        "idle_in_transaction_session_timeout": milliseconds(timeouts.transaction),
        "jit": "off",  # compiling costs more than any statement of ours
        "plan_cache_mode": "force_generic_plan",  # planning costs more than executing, too
        "enable_nestloop": "on",  # see NEVER_SCANS
        "enable_indexscan": "on",
        **dict.fromkeys(NEVER_SCANS, "off"),
    }


RELIED_ON_SINCE = {"transaction_timeout": "0"}
"""Settings that older versions lack. They would refuse a connection that requests one of them."""


def settings_put(settings: Mapping[str, str], *, for_session: bool) -> str:
    """Return the statement that applies settings to the session or to the transaction."""
    return "SELECT " + ", ".join(_put(settings.items(), is_local=not for_session))


def preamble_of(settings: Mapping[str, str]) -> str:
    """Return the statements that follow BEGIN in a shared session."""
    history = f"pg_catalog.set_config('holdfast.history', ({HISTORY}), true)"
    return "; " + settings_put(settings, for_session=False) + f", {history}"


def _put(settings: Iterable[tuple[str, str]], *, is_local: bool) -> Iterable[str]:
    for name, value in settings:
        yield f"pg_catalog.set_config({_quoted(name)}, {_quoted(value)}, {str(is_local).lower()})"


def _quoted(text: str) -> str:
    """Return a literal that means the same whether or not a backslash escapes."""
    quoted = text.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"


def milliseconds(seconds: float) -> str:
    """Return a duration as PostgreSQL's settings expect it."""
    return str(int(seconds * 1000))
