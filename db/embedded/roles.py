"""The roles of the private PostgreSQL: their names, passwords, addresses and statements.

The statements can be repeated. They also migrate a cluster of an older version, where a superuser
called `holdfast` owned everything.
"""

import hmac
from dataclasses import dataclass
from enum import StrEnum

from db.grants import PRIVILEGES

DATABASE = "holdfast"
BOOTSTRAP = 10  # the id of the superuser that initdb has created
# Our tables that a superuser may own. People who connected as the superuser made the others.
OLDER_TABLES = (
    "stock", "reservation", "reservation_line", "refund", "refund_line", "adjustment", "import_job",
    "movement", "api_key", "source_limit", "page_session", "page_token", "access_log",
    "alembic_version",
)  # fmt: skip


class Role(StrEnum):
    """The roles, one for each purpose; no role can become another."""

    SERVING = "holdfast"
    """The role of the service; `db.grants` lists its privileges."""
    MIGRATING = "holdfast_owner"
    """The role that migrates and owns the tables."""
    PEOPLE = "holdfast_operator"
    """The role of people and tools: reads, writes and analyses all tables; may create databases."""
    SUPERUSER = "holdfast_superuser"
    """The superuser. Only tests connect as it, to break servers and to watch them."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The private server's address for each role. No password reveals another one."""

    secret: str
    port: int

    def address_of(self, role: Role, database: str = DATABASE) -> str:
        """Return the address of a role, with its password."""
        credentials = f"{role}:{derive_password(self.secret, role)}"
        return f"postgresql://{credentials}@127.0.0.1:{self.port}/{database}"

    @property
    def people(self) -> str:
        """Return the address in `<data-dir>/database.url`."""
        return self.address_of(Role.PEOPLE)

    @property
    def serving(self) -> str:
        """Return the address for DATABASE_URL."""
        return self.address_of(Role.SERVING)

    @property
    def migrating(self) -> str:
        """Return the address for MIGRATE_DATABASE_URL."""
        return self.address_of(Role.MIGRATING)

    @property
    def superuser(self) -> str:
        """Return the address that only tests use."""
        return self.address_of(Role.SUPERUSER)


def derive_password(secret: str, role: Role) -> str:
    """Return a role's password, which needs no quoting in SQL or in a URL."""
    return hmac.digest(secret.encode(), role.encode(), "sha256").hex()


def make_roles(secret: str) -> str:
    """Return the statements for the database `postgres`: roles, passwords, owners of databases."""
    created = (CREATE.format(role=role) for role in Role)
    passwords = (
        f"ALTER ROLE {role} LOGIN PASSWORD '{derive_password(secret, role)}'" for role in Role
    )
    return _join(RENAME, *created, *passwords, *DATABASES)


def hand_over() -> str:
    """Return the statements for the service's database: the superuser's tables get new owners."""
    ours = ", ".join(f"'{table}'" for table in OLDER_TABLES)
    granted = (
        GRANT.format(table=table, privileges=privileges) for table, privileges in PRIVILEGES.items()
    )
    return _join(*SCHEMA, HAND_OVER.format(ours=ours), *granted, STATISTICS, OPEN)


def _join(*statements: str) -> str:
    """Return one line, which single-user mode executes as one transaction."""
    return "; ".join(" ".join(statement.split()) for statement in statements)


# A role can't rename itself, so a temporary superuser does it.
RENAME = f"""
    DO $$ DECLARE bootstrap name := (SELECT rolname FROM pg_roles WHERE oid = {BOOTSTRAP}); BEGIN
        IF bootstrap <> '{Role.SUPERUSER}' THEN
            CREATE ROLE holdfast_renaming SUPERUSER;
            SET SESSION AUTHORIZATION holdfast_renaming;
            EXECUTE format('ALTER ROLE %I RENAME TO {Role.SUPERUSER}', bootstrap);
            SET SESSION AUTHORIZATION {Role.SUPERUSER};
            DROP ROLE holdfast_renaming;
        END IF;
    END $$
"""
CREATE = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
            CREATE ROLE {role};
        END IF;
    END $$
"""
DATABASES = (
    f"ALTER ROLE {Role.PEOPLE} CREATEDB",
    f"GRANT pg_monitor, pg_signal_backend TO {Role.PEOPLE}",
    # Databases that people have created as the superuser of an older version.
    f"""
    DO $$ DECLARE made name; BEGIN
        FOR made IN SELECT datname FROM pg_database
            WHERE datdba = {BOOTSTRAP} AND NOT datistemplate AND datname <> 'postgres'
        LOOP EXECUTE format('ALTER DATABASE %I OWNER TO {Role.PEOPLE}', made); END LOOP;
    END $$
    """,
    f"ALTER DATABASE {DATABASE} OWNER TO {Role.MIGRATING}",
    f"REVOKE ALL ON DATABASE {DATABASE}, postgres, template1 FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE {DATABASE} TO {Role.SERVING}",
    f"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {DATABASE} TO {Role.PEOPLE}",
    f"GRANT CONNECT ON DATABASE postgres TO {Role.PEOPLE}",
)
SCHEMA = (  # the default of PostgreSQL 15 and later
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    f"GRANT CREATE ON SCHEMA public TO {Role.MIGRATING}",
)
# Sequences of columns follow their tables; views of an extension stay with the superuser.
HAND_OVER = f"""
    DO $$ DECLARE part record; BEGIN
        FOR part IN SELECT oid::regclass AS name, relname IN ({{ours}}) AS is_ours FROM pg_class
            WHERE relowner = {BOOTSTRAP} AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                AND relnamespace NOT IN (
                    SELECT oid FROM pg_namespace
                    WHERE nspname LIKE 'pg\\_%' OR nspname = 'information_schema')
                AND NOT EXISTS (
                    SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass
                        AND objid = pg_class.oid AND (deptype = 'e'
                            OR relkind = 'S' AND deptype IN ('a', 'i')))
        LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO %I', part.name,
                CASE WHEN part.is_ours THEN '{Role.MIGRATING}' ELSE '{Role.PEOPLE}' END);
        END LOOP;
    END $$
"""
# Granted even before the next migration, so that keys can be created and books audited.
GRANT = f"""
    DO $$ BEGIN
        IF to_regclass('public.{{table}}') IS NOT NULL THEN
            GRANT {{privileges}} ON public.{{table}} TO {Role.SERVING};
        END IF;
    END $$
"""
# The time of each statement: only a superuser can create the view, and people read it.
STATISTICS = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') THEN
            CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
        END IF;
    END $$
"""
# Not pg_read_all_data, which also reads the digests of passwords. MAINTAIN came with PostgreSQL 17.
OPEN = f"""
    DO $$ DECLARE rights text := 'SELECT, INSERT, UPDATE, DELETE'; BEGIN
        IF current_setting('server_version_num')::int >= 170000 THEN
            rights := rights || ', MAINTAIN';
        END IF;
        EXECUTE format('GRANT %s ON ALL TABLES IN SCHEMA public TO {Role.PEOPLE}', rights);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE {Role.MIGRATING} IN SCHEMA public
            GRANT %s ON TABLES TO {Role.PEOPLE}', rights);
    END $$
"""
