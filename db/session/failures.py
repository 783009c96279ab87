"""The meaning of the database's failures: whether anything was written, and whether to try again.

SQLSTATE is often missing when a connection dies, so a failure without one counts as a lost
connection.
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
"""The exceptions that connecting or a statement can raise, through SQLAlchemy or directly."""

POOL_IS_DEAD = ("25006", "57P01", "57P02", "57P03")
"""SQLSTATEs of a server that became a standby or shuts down: no connection of the pool works."""

CONFLICTS = {"40001": "serialization", "40P01": "deadlock"}
DEFINITE_AT_COMMIT = ("40", "23", "25", "53")  # classes in which PostgreSQL has rolled back
LOST = ("08", "57P", "53", "25006", "25P03", "25P04", "58", "28", "3D", "XX")
LOST_IN_POOLER = ("26000", "42P05")
"""SQLSTATEs about the name of a prepared statement. Through a pooler our statements have none, so
the error is about the session of another client."""


class DatabaseError(Exception):
    """The database did not carry out a request."""


class Conflict(DatabaseError):
    """A guard did not hold, or PostgreSQL aborted the transaction; nothing was written."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class LockTimeout(Conflict):
    """The lock of a row was not free in time; nothing was written."""

    def __init__(self) -> None:
        super().__init__("lock_timeout")


class ConnectionLost(Conflict):
    """The connection died before COMMIT was sent; nothing was written."""

    def __init__(self) -> None:
        super().__init__("connection_lost")


class StoreUnavailable(DatabaseError):
    """No work is possible at the moment; nothing was written.

    The database or a lock service is unreachable, the database is full or read-only, or no
    connection was free.
    """


class CommitUnknown(DatabaseError):
    """The connection died at COMMIT, and the outcome of the transaction could not be determined."""

    def __init__(self) -> None:
        super().__init__(
            "the connection died at COMMIT, and it is unknown whether the transaction was committed"
        )


def meaning_of(error: Exception) -> DatabaseError:
    """Return the meaning of a failure before COMMIT."""
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
        return StoreUnavailable("the database has no disk space, memory or connections left")
    if state is None:
        is_bug = isinstance(error, asyncpg.DataError)  # a value that the driver can't send
        return DatabaseError("the driver can't send a value") if is_bug else ConnectionLost()
    if state.startswith((*LOST, *LOST_IN_POOLER)) or _has_outdated_plan(error):
        return ConnectionLost()
    return DatabaseError(f"unexpected database error {state}")


def _has_outdated_plan(error: Exception) -> bool:
    """True when a migration changed the types of a prepared statement's result: run it again.

    The class of the exception decides, because unsupported features have the same SQLSTATE.
    """
    cause = getattr(error, "orig", error)
    return any(
        isinstance(each, asyncpg.InvalidCachedStatementError) for each in (cause, cause.__cause__)
    )


def has_rolled_back(error: Exception) -> bool:
    """True when a failure at COMMIT means that nothing was written."""
    state = sqlstate(error)
    return state is not None and state.startswith(DEFINITE_AT_COMMIT)


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error of SQLAlchemy or of the driver; None if it has none."""
    code = getattr(getattr(error, "orig", error), "sqlstate", None)
    return None if code is None else str(code)
