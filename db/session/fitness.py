"""The fitness of a database: requirements that it must meet, and warnings about risky settings."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session.database import Database, DatabaseError

FITNESS = text("""
    SELECT current_database() AS name, current_setting('server_encoding') AS encoding,
           current_schema() AS schema, current_setting('search_path') AS search_path
""")

DURABILITY = text("""
    SELECT current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') <> '' AS has_standbys,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes
""")

GRANTED = text("""
    SELECT least(
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit END,
        CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit END
    )
    FROM pg_roles, pg_database
    WHERE rolname = session_user AND datname = current_database()
""")


class UnfitDatabase(DatabaseError):
    """The database can't be used; the message names the remedy."""


async def refuse_unfit(connection: AsyncConnection) -> None:
    """Raise `UnfitDatabase` if the database could not store rows unchanged."""
    found = (await connection.execute(FITNESS)).one()
    if found.encoding != "UTF8":
        raise UnfitDatabase(
            f"The database {found.name} has the encoding {found.encoding}, which can't store every"
            " SKU: create a database with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and"
            " name it in HOLDFAST_DATABASE_URL."
        )
    if found.schema is None:
        raise UnfitDatabase(
            f"The search_path ({found.search_path}) names no schema that exists and that the role"
            f" may use: correct it with ALTER ROLE … IN DATABASE {found.name} SET search_path"
            " = …, or in the address with options=-csearch_path%3D…."
        )


async def concerns(database: Database) -> list[str]:
    """Return the warnings about a usable database, each a sentence."""
    found = (await database.read(lambda connection: connection.execute(DURABILITY))).one()
    warnings = list(database.connector.address.warnings)
    if database.connector.is_shared:
        warnings.append(
            "The database is reached through a pooler: settings are sent with every transaction"
            " and statements are planned each time, which costs PostgreSQL more time than a direct"
            " connection (docs/operations.md)."
        )
    lenient = ("off", "local") if found.has_standbys else ("off",)
    if found.synchronous_commit in lenient:
        warnings.append(
            f"synchronous_commit is {found.synchronous_commit} for this role or database: a"
            " change that was answered with success can be lost when the server fails. Set it to on"
            " with ALTER ROLE … SET synchronous_commit = on, unless you accept that."
        )
    warnings += [
        f"{name} is off: after a power failure the whole database may be unusable. Set it to on in"
        " postgresql.conf, unless the data may be lost."
        for name in ("fsync", "full_page_writes")
        if found._mapping[name] == "off"
    ]
    return warnings


async def granted_connections(database: Database) -> int | None:
    """Return how many connections the role may have in total; None where a pooler decides that."""
    if database.connector.is_shared:
        return None
    granted: int = await database.read(lambda connection: connection.scalar(GRANTED))
    return granted
