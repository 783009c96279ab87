"""What a failure of the database means: whether anything was written, and whether to try again.

SQLSTATE is often missing when a connection dies, so what has none counts as that.
"""

import asyncpg
from sqlalchemy.exc import DBAPIError

FAILURES = (
    DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Whatever connecting or a statement may end with, through SQLAlchemy or past it."""

POOL_IS_DEAD = ("25006", "57P01", "57P02", "57P03")
"""The server became a standby or goes down: every connection of the pool leads to the same one."""

CONFLICTS = {"40001": "serialization", "40P01": "deadlock"}
DEFINITE_AT_COMMIT = ("40", "23", "25", "53")  # classes in which PostgreSQL has rolled back
AWAY = ("08", "57P", "53", "25006", "25P03", "25P04", "58", "28", "3D", "XX")
LOST_IN_POOLER = ("26000", "42P05")  # a statement's name, though we use none with one


class DatabaseError(Exception):
    """The database did not do what it was asked."""


class Conflict(DatabaseError):
    """A guard did not hold, or PostgreSQL chose us as the loser; nothing was written."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class LockTimeout(Conflict):
    """A row's lock could not be had in time; nothing was written."""

    def __init__(self) -> None:
        super().__init__("lock_timeout")


class ConnectionLost(Conflict):
    """The connection died before COMMIT was sent; nothing was written."""

    def __init__(self) -> None:
        super().__init__("connection_lost")


class StoreUnavailable(DatabaseError):
    """The database is unreachable, full or read-only, or the pool is empty; nothing was written."""


class CommitUnknown(DatabaseError):
    """The connection died at COMMIT and what became of the transaction could not be read back."""

    def __init__(self) -> None:
        super().__init__("the connection died at COMMIT, and it is not known whether it was done")


def meaning_of(error: Exception) -> DatabaseError:
    """Return what a failure before COMMIT means."""
    state = sqlstate(error)
    if state in CONFLICTS:
        return Conflict(CONFLICTS[state])
    if state in ("55P03", "57014"):
        return LockTimeout()
    if isinstance(error, TimeoutError):
        return StoreUnavailable("the database did not answer in time")
    if state == "25006":
        return StoreUnavailable("the database is read-only")
    if state is not None and state.startswith("53"):
        return StoreUnavailable("the database has no room or no memory left")
    if state is None:
        is_bug = isinstance(error, asyncpg.DataError)  # a value that the driver can't send
        return DatabaseError("a value that can't be sent") if is_bug else ConnectionLost()
    if state.startswith((*AWAY, *LOST_IN_POOLER)) or _has_outdated_plan(error):
        return ConnectionLost()
    return DatabaseError(f"unexpected database error {state}")


def _has_outdated_plan(error: Exception) -> bool:
    """True when a prepared statement's result has other types since a migration: run it again.

    Its SQLSTATE is also that of anything else that a server does not support.
    """
    cause = getattr(error, "orig", error)
    return any(
        isinstance(each, asyncpg.InvalidCachedStatementError) for each in (cause, cause.__cause__)
    )


def has_rolled_back(error: Exception) -> bool:
    """True when a failure at COMMIT says that nothing was written."""
    state = sqlstate(error)
    return state is not None and state.startswith(DEFINITE_AT_COMMIT)


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error, SQLAlchemy's or the driver's, or None."""
    code = getattr(getattr(error, "orig", error), "sqlstate", None)
    return None if code is None else str(code)
