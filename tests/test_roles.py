"""The roles of the private PostgreSQL: the privileges of each role, and no way to another role."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from db.embedded.installation import Installation, find_binaries
from db.embedded.postmaster import Postmaster, choose_account, launch, run, wait_until
from db.embedded.roles import Addresses, Role
from db.embedded.server import EmbeddedPostgres, find_addresses, find_port
from db.migrate import upgrade
from db.models import Base
from db.session.database import Database
from db.strategies.guard import Guard
from service.domain.commands import SetStock
from service.engine.ledger import Ledger
from tests.conftest import assert_books_balance
from tests.preloaded import run_command
from tests.server import environment, running_server
from tests.test_coalescer import reserve

SECONDS = 30.0
READS_AND_ADDS = {"SELECT", "INSERT"}
SERVES = {
    "stock": READS_AND_ADDS | {"UPDATE"},
    "reservation": READS_AND_ADDS | {"UPDATE"},
    "reservation_line": READS_AND_ADDS | {"UPDATE"},
    "refund": READS_AND_ADDS,
    "refund_line": READS_AND_ADDS,
    "adjustment": READS_AND_ADDS,
    "import_job": READS_AND_ADDS | {"UPDATE"},
    "movement": READS_AND_ADDS,
    "api_key": READS_AND_ADDS | {"UPDATE"},
    "source_limit": READS_AND_ADDS | {"UPDATE"},
    "page_session": READS_AND_ADDS | {"DELETE"},
    "access_log": READS_AND_ADDS | {"UPDATE", "DELETE"},
    "alembic_version": {"SELECT"},
}
"""The privileges of the serving role on each table."""
FOREIGN = {
    "a table": "CREATE TABLE mine (n int)",
    "a temporary table": "CREATE TEMPORARY TABLE mine (n int)",
    "a schema": "CREATE SCHEMA mine",
    "a function": "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a view": "CREATE VIEW mine AS SELECT 1",
    "a database": "CREATE DATABASE mine",
    "a role": "CREATE ROLE mine",
    "an extension": "CREATE EXTENSION pg_buffercache",
    "a column": "ALTER TABLE stock ADD COLUMN mine int",
    "an index": "CREATE INDEX mine ON stock (sku)",
    "a dropped constraint": "ALTER TABLE stock DROP CONSTRAINT stock_available_check",
    "a dropped ledger": "DROP TABLE movement",
    "an emptied ledger": "TRUNCATE movement",
    "a program": "COPY stock TO PROGRAM 'cat'",
    "a program's output": "COPY import_job FROM PROGRAM 'cat'",
    "a file": "COPY stock TO '/tmp/stock'",
    "a file's content": "SELECT pg_read_file('PG_VERSION')",
    "a directory": "SELECT pg_ls_dir('.')",
    "a large object's file": "SELECT lo_import('PG_VERSION')",
    "passwords": "SELECT rolpassword FROM pg_authid",
    "the server's settings": "ALTER SYSTEM SET fsync = off",
    "another's session": "SET SESSION AUTHORIZATION holdfast_superuser",
    "the owner's role": "SET ROLE holdfast_owner",
    "the operator's role": "SET ROLE holdfast_operator",
    "the owner's rights": "GRANT holdfast_owner TO holdfast",
    "the settings of the database": "ALTER DATABASE holdfast SET fsync = off",
    "triggers": "ALTER TABLE movement DISABLE TRIGGER ALL",
    "replication": "SELECT pg_create_physical_replication_slot('mine')",
}
"""Statements that the service never executes; its role may not execute them."""


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A private PostgreSQL after the migrations."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("roles") / "data") as postgres:
        asyncio.run(migrate(postgres.addresses))
        yield postgres.addresses


async def migrate(addresses: Addresses) -> None:
    database = Database(addresses.serving, pool_size=2)
    await upgrade(database, addresses.migrating)
    await database.close()


def statements(table: str, column: str) -> dict[str, str]:
    """A statement for each privilege on a table; none of them changes a row."""
    return {
        "SELECT": f"SELECT FROM {table}",
        "INSERT": f"INSERT INTO {table} SELECT * FROM {table} WHERE false",
        "UPDATE": f"UPDATE {table} SET {column} = {column} WHERE false",
        "DELETE": f"DELETE FROM {table} WHERE false",
        "TRUNCATE": f"TRUNCATE {table}",
    }


async def is_allowed(url: str, statement: str) -> bool:
    """Return whether the role may execute the statement; roll it back."""
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        await transaction.rollback()
    except asyncpg.InsufficientPrivilegeError:
        return False
    else:
        return True
    finally:
        await connection.close()


async def test_the_serving_role_has_exactly_the_privileges_that_it_needs_on_each_table(
    addresses,
):
    columns = {name: next(iter(table.columns)).name for name, table in Base.metadata.tables.items()}
    columns["alembic_version"] = "version_num"
    found = {
        table: {
            privilege
            for privilege, statement in statements(table, column).items()
            if await is_allowed(addresses.serving, statement)
        }
        for table, column in columns.items()
    }
    assert found == SERVES


@pytest.mark.parametrize("statement", FOREIGN.values(), ids=FOREIGN)
async def test_the_serving_role_may_execute_no_other_statement(addresses, statement):
    connection = await asyncpg.connect(addresses.serving)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_serving_role_can_not_grant_itself_a_privilege(addresses):
    await execute(
        addresses.serving, "GRANT DELETE ON movement TO holdfast"
    )  # PostgreSQL only warns
    assert not await is_allowed(addresses.serving, "DELETE FROM movement")


async def test_no_role_connects_without_its_own_password(addresses):
    for role in Role:
        assert await ask(addresses.address_of(role), "SELECT current_user") == role
        address = urlsplit(addresses.address_of(role))
        passwords = {other: urlsplit(addresses.address_of(other)).password for other in Role}
        del passwords[role]
        for password in (*passwords.values(), "", "holdfast"):
            netloc = f"{role}:{password}@127.0.0.1:{addresses.port}"
            with pytest.raises(asyncpg.InvalidPasswordError):
                await ask(address._replace(netloc=netloc).geturl(), "SELECT 1")
    rules = "SELECT DISTINCT auth_method FROM pg_hba_file_rules"
    connection = await asyncpg.connect(addresses.superuser)
    assert [row[0] for row in await connection.fetch(rules)] == ["scram-sha-256"]
    await connection.close()


async def ask(url: str, question: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def execute(url: str, *commands: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for command in commands:
            await connection.execute(command)
    finally:
        await connection.close()


async def test_people_may_read_write_and_analyse_every_present_and_future_table(addresses):
    await execute(addresses.migrating, "CREATE TABLE later (n int)")
    await execute(
        addresses.people,
        "INSERT INTO later VALUES (1), (2)",
        "UPDATE later SET n = n + 1",
        "DELETE FROM later WHERE n = 2",
        "ANALYZE later",
        "SELECT FROM movement",
        "CREATE SCHEMA mine CREATE VIEW mine.units AS SELECT sum(available) FROM public.stock",
        "CREATE TEMPORARY TABLE found (n int)",
        "CREATE DATABASE theirs",
        "DROP DATABASE theirs",
    )
    pages = "SELECT reltuples FROM pg_class WHERE relname = 'later'"
    may_analyse = "SELECT current_setting('server_version_num')::int >= 170000"
    was_analysed = await ask(addresses.people, pages) == 1
    assert was_analysed == await ask(addresses.people, may_analyse)


async def test_people_may_watch_and_end_the_sessions_of_the_service(addresses):
    session = await asyncpg.connect(addresses.serving)
    await session.execute("SELECT 'seen'")
    pid = session.get_server_pid()
    seen = f"SELECT query FROM pg_stat_activity WHERE pid = {pid}"
    assert await ask(addresses.people, seen) == "SELECT 'seen'"
    assert await ask(addresses.people, f"SELECT pg_terminate_backend({pid}, 5000)")
    session.terminate()


async def test_people_may_see_the_time_that_statements_take(addresses):
    await execute(addresses.serving, "SELECT count(*) FROM movement")
    calls = "SELECT calls FROM pg_stat_statements WHERE query = 'SELECT count(*) FROM movement'"
    assert await ask(addresses.people, calls) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "COPY stock TO PROGRAM 'cat'",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT rolpassword FROM pg_authid",
        "ALTER SYSTEM SET fsync = off",
        "CREATE ROLE mine",
        "SET ROLE holdfast_owner",
        "DROP TABLE movement",
        "ALTER TABLE stock DROP CONSTRAINT stock_available_check",
        "DROP DATABASE holdfast WITH (FORCE)",
    ],
)
async def test_the_role_for_people_is_no_superuser_and_owns_no_table_of_the_service(
    addresses, statement
):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(addresses.people, statement)


async def test_the_migrating_role_is_no_superuser(addresses):
    for statement in ("COPY stock TO PROGRAM 'cat'", "CREATE DATABASE mine", "CREATE ROLE mine"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(addresses.migrating, statement)


def test_each_command_connects_as_the_role_for_it(tmp_path):
    """During each command the other roles can't log in."""
    tmp_path.chmod(0o755)
    with running_server(None, data_dir=tmp_path / "data", admin_key=None) as server:
        addresses = find_addresses(tmp_path / "data")
        asyncio.run(execute(addresses.superuser, *allow_logins(Role.SERVING)))
        create = ("key", "create", "--source", "shop", "--scope", "read")
        for command in (create, ("key", "list"), ("audit",)):
            assert holdfast(tmp_path, *command).returncode == 0
        assert "permitted to log in" in holdfast(tmp_path, "db", "upgrade").stderr
        asyncio.run(execute(addresses.superuser, *allow_logins(Role.SERVING, Role.MIGRATING)))
        assert holdfast(tmp_path, "db", "upgrade").returncode == 0
        asyncio.run(execute(addresses.superuser, *allow_logins(*Role)))
        assert server.process.poll() is None


def allow_logins(*roles: Role) -> list[str]:
    others = set(Role) - {*roles, Role.SUPERUSER}
    return [
        *(f"ALTER ROLE {role} LOGIN" for role in roles),
        *(f"ALTER ROLE {role} NOLOGIN" for role in others),
    ]


def holdfast(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, environment=environment({"data_dir": directory / "data"}))


OLD_PASSWORD = "the-superusers-own"


def make_older_cluster(data_dir: Path) -> None:
    """Make a cluster of the previous version, in which a superuser `holdfast` owns all tables."""
    cluster = data_dir / "postgresql"
    cluster.mkdir(parents=True, mode=0o700)
    account = choose_account(data_dir / "none")
    account.own(cluster)
    binaries = find_binaries(None, data_dir, account)
    arguments = ["--username=holdfast", "--pwfile=/dev/stdin", "--auth=scram-sha-256"]
    arguments += ["--encoding=UTF8", "--locale=C", "--data-checksums"]
    run([binaries / "initdb", *arguments], account, cluster, typed=OLD_PASSWORD)
    installation = Installation(binaries, account)
    installation.execute_alone(cluster, "postgres", "CREATE DATABASE holdfast")
    (data_dir / "postgresql.password").write_text(OLD_PASSWORD)
    (data_dir / "lock").touch(0o644)
    port = find_port()
    settings = [f"--port={port}", "--unix_socket_directories="]
    with launch([binaries / "postgres", *settings], account, cluster) as server:
        assert wait_until(Postmaster(server, cluster).is_ready, SECONDS)
        asyncio.run(use_as_before(older_url(port)))
        server.send_signal(signal.SIGINT)


def older_url(port: int) -> str:
    return f"postgresql://holdfast:{OLD_PASSWORD}@127.0.0.1:{port}/holdfast"


async def use_as_before(url: str) -> None:
    """Migrate and sell a unit like the service, and create tables like a person."""
    database = Database(url, pool_size=2)
    await upgrade(database)
    ledger = Ledger(database, Guard())
    for command in (SetStock("A", "main", 10, None, None, None), reserve("1", "A")):
        assert (await ledger.execute([command]))[0].effect == "created"
    await database.close()
    await execute(
        url,
        "CREATE VIEW sold AS SELECT sum(-available_delta) FROM movement WHERE kind = 'reserve'",
        "CREATE TABLE notes (id serial PRIMARY KEY, note text)",
        "CREATE DATABASE theirs",
        "CREATE TABLE page_token (digest bytea)",  # a table that a later migration drops
    )


OWNERS = """
    SELECT relname, pg_get_userbyid(relowner) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')
        AND relname NOT LIKE 'pg!_stat!_%' ESCAPE '!'
"""


def test_a_data_directory_of_the_previous_version_gets_the_roles_and_keeps_its_data(tmp_path):
    data_dir = tmp_path / "data"
    make_older_cluster(data_dir)
    for _ in range(2):
        with EmbeddedPostgres(data_dir) as postgres:
            asyncio.run(assert_roles_and_data_are_right(postgres.addresses))
    assert not (data_dir / "postgresql.password").exists()


async def assert_roles_and_data_are_right(addresses: Addresses) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(older_url(addresses.port), "SELECT 1")
    await assert_books_balance(addresses.serving)  # before the migrations
    await migrate(addresses)
    ours = dict.fromkeys([*SERVES, "page_token"], str(Role.MIGRATING))
    theirs = dict.fromkeys(["sold", "notes", "notes_id_seq"], str(Role.PEOPLE))
    connection = await asyncpg.connect(addresses.people)
    assert dict(await connection.fetch(OWNERS)) == ours | theirs
    assert await connection.fetchval("SELECT * FROM sold") == 1
    await connection.execute("INSERT INTO notes (note) VALUES ('still ours')")
    await connection.close()
    database = Database(addresses.serving, pool_size=2)
    outcome = (await Ledger(database, Guard()).execute([reserve("1", "A")]))[0]
    assert outcome.effect == "unchanged"
    await database.close()
    for statement in ("DELETE FROM movement", "DROP TABLE movement", "COPY stock TO PROGRAM 'cat'"):
        assert not await is_allowed(addresses.serving, statement)
    superusers = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper"
    assert await ask(addresses.people, superusers) == Role.SUPERUSER
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'theirs'"
    assert await ask(addresses.people, owner) == Role.PEOPLE
