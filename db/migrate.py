"""Bring the schema up to date: under a lock, so that many processes may start at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from db.checks import refuse_unfit
from db.database import Database, DatabaseError, Transaction

LOCK = 0x686F6C64  # "hold": the key of the advisory lock that migrations take
WAIT = "60s"  # for another process to finish its migration
SECONDS_MAX = 660  # for all migrations; index builds on large tables are slow


class SchemaError(DatabaseError):
    """The schema can't be brought up to date."""


async def upgrade(database: Database) -> None:
    """Run every migration that is missing, in one transaction.

    Raises `SchemaError`, and `UnfitDatabase` before anything is changed.
    """

    async def work(transaction: Transaction) -> None:
        connection = transaction.connection
        await refuse_unfit(connection)
        await connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT}'"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        await connection.run_sync(_run)

    try:
        await database.transact(work, timeout_seconds=SECONDS_MAX)
    except CommandError as error:
        raise SchemaError(
            f"The database's schema is not one this version knows ({error})."
            " Run the version of Holdfast that made it, or a newer one."
        ) from error


def _run(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    command.upgrade(config, "head")
