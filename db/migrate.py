"""Brings the schema up to date, under a lock, so that many processes can start at once."""

from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.grants import grant
from db.session.database import Database, DatabaseError, Transaction
from db.session.failures import sqlstate
from db.session.fitness import refuse_unfit

LOCK = 0x686F6C64  # "hold": the key of the advisory lock that migrations take
WAIT = "60s"  # for another process to finish its migration
DENIED = "42501"  # insufficient_privilege
SECONDS_MAX = 660  # for all migrations; index builds on large tables are slow


class SchemaError(DatabaseError):
    """The schema can't be brought up to date."""


class Destination(NamedTuple):
    """The server and the database that a connection leads to, and its role."""

    role: str
    database: str
    system: str


DESTINATION = text("""
    SELECT current_user, current_database(), CAST(system_identifier AS text)
    FROM pg_control_system()
""")


async def upgrade(database: Database, migrating_url: str | None = None) -> None:
    """Run every missing migration, in one transaction.

    Raises `SchemaError`, and `UnfitDatabase` before anything is changed.

    With `migrating_url`, the role of that address runs the migrations and then grants the role of
    `database` its privileges. Raises `GrantError` if that fails or if the role has
    more privileges.
    """
    if migrating_url is None:
        await _migrate(database, None)
        return
    serving = await database.read(_locate)
    migrating = Database(migrating_url, pool_size=1)
    try:
        await _migrate(migrating, serving)
    finally:
        await migrating.close()


async def _migrate(database: Database, serving: Destination | None) -> None:
    async def work(transaction: Transaction) -> None:
        connection = transaction.connection
        await refuse_unfit(connection)
        here = await _locate(connection)
        if serving is not None and serving[1:] != here[1:]:
            raise SchemaError(
                f"DATABASE_URL leads to the database {serving.database} and MIGRATE_DATABASE_URL to"
                f" {here.database}, or to another server: both must name the same database"
            )
        await connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT}'"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        await connection.run_sync(_run)
        if serving is not None and serving.role != here.role:
            await grant(connection, serving.role)

    try:
        await database.transact(work, timeout_seconds=SECONDS_MAX)
    except CommandError as error:
        raise SchemaError(
            f"This version of Holdfast does not know the schema of the database ({error})."
            " Run the version that made the schema, or a newer one."
        ) from error
    except DatabaseError as error:
        cause = getattr(error.__cause__, "orig", error.__cause__)
        if cause is None or sqlstate(cause) != DENIED:
            raise
        raise SchemaError(
            "the role lacks the privileges to update the schema: name the role that owns the tables"
            " with MIGRATE_DATABASE_URL, for every start or once for `holdfast db upgrade`"
        ) from (cause.__cause__ or cause)


async def _locate(connection: AsyncConnection) -> Destination:
    return Destination(*(await connection.execute(DESTINATION)).one())


def _run(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    command.upgrade(config, "head")
