"""The privileges of the role that serves, table by table. PostgreSQL refuses it everything else.

A table that a migration adds needs a line here; `tests/test_grants.py` checks that.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session.engine import driver_of
from db.session.failures import DatabaseError

PRIVILEGES = {
    "stock": "SELECT, INSERT, UPDATE",
    "reservation": "SELECT, INSERT, UPDATE",
    "reservation_line": "SELECT, INSERT, UPDATE",
    "refund": "SELECT, INSERT",
    "refund_line": "SELECT, INSERT",
    "adjustment": "SELECT, INSERT",
    "import_job": "SELECT, INSERT, UPDATE",
    "movement": "SELECT, INSERT",  # the ledger is append-only
    "api_key": "SELECT, INSERT, UPDATE",
    "source_limit": "SELECT, INSERT, UPDATE",
    "page_session": "SELECT, INSERT, DELETE",
    "access_log": "SELECT, INSERT, UPDATE, DELETE",
    "alembic_version": "SELECT",  # to check whether the schema is up to date
}
HELD = text("""
    SELECT privilege || ' on ' || name
    FROM unnest(CAST(:names AS text[])) AS name,
         unnest(CAST(:privileges AS text[])) AS privilege
    WHERE has_table_privilege(CAST(:role AS name), name, privilege)
    UNION ALL
    SELECT 'CREATE on schema ' || current_schema()
    WHERE has_schema_privilege(CAST(:role AS name), current_schema(), 'CREATE')
""")
EVERY_PRIVILEGE = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


class GrantError(DatabaseError):
    """The role that serves can't be given its privileges, or has more privileges than it needs."""


async def grant(connection: AsyncConnection, role: str) -> None:
    """Grant a role the privileges for serving and revoke all others.

    The connection's role must own the tables. Raises `GrantError` if the role has more or fewer
    privileges afterwards. It has more as the owner of a table, as a superuser or as a member of
    another role.
    """
    name = '"' + role.replace('"', '""') + '"'
    statements = [f"GRANT USAGE ON SCHEMA {await _schema(connection)} TO {name}"]
    for table, privileges in PRIVILEGES.items():
        statements.append(f"REVOKE ALL ON {table} FROM {name}")
        statements.append(f"GRANT {privileges} ON {table} TO {name}")
    await driver_of(connection).execute("; ".join(statements))
    await _check(connection, role)


async def _schema(connection: AsyncConnection) -> str:
    return str((await connection.execute(text("SELECT quote_ident(current_schema())"))).scalar())


async def _check(connection: AsyncConnection, role: str) -> None:
    parameters = {"role": role, "names": list(PRIVILEGES), "privileges": list(EVERY_PRIVILEGE)}
    held = set((await connection.execute(HELD, parameters)).scalars())
    needed = {
        f"{privilege} on {table}"
        for table, privileges in PRIVILEGES.items()
        for privilege in privileges.split(", ")
    }
    if lacking := needed - held:
        raise GrantError(
            f"the role {role} of DATABASE_URL lacks {_listed(lacking)}, which the role of"
            " MIGRATE_DATABASE_URL can't grant: make that role the owner of the tables, as"
            " docs/operations.md shows under Roles"
        )
    if excess := held - needed:
        raise GrantError(
            f"the role {role} of DATABASE_URL has more privileges than it needs:"
            f" {_listed(excess)}. Check whether it is a superuser, the tables' owner or a member of"
            " another role, or whether PUBLIC has these privileges. Revoke them, as"
            " docs/operations.md shows under Roles"
        )


def _listed(privileges: set[str]) -> str:
    first, more = sorted(privileges)[:4], len(privileges) - 4
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
