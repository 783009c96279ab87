"""A database on another server: one role migrates, and another serves with least privileges."""

import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import pytest

from db.grants import PRIVILEGES, GrantError
from db.migrate import SchemaError, upgrade
from db.models import Base
from db.session.database import Database
from tests.conftest import assert_books_balance, named
from tests.preloaded import run_command
from tests.roles import as_superuser
from tests.server import environment, running_server
from tests.test_roles import SERVES, execute

pytestmark = pytest.mark.skipif(
    "HOLDFAST_TEST_DATABASE_URL" in os.environ, reason="only a superuser can make the roles"
)
HELD = """
    SELECT name, array_agg(privilege) FROM unnest($2::text[]) AS name,
        unnest('{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER}'::text[])
            AS privilege
    WHERE has_table_privilege($1::name, name, privilege)
    GROUP BY name
"""


@dataclass(frozen=True)
class Elsewhere:
    """An empty database on another server, and its two roles."""

    app: str
    owner: str
    superuser_url: str

    @property
    def serving_url(self) -> str:
        return self.url_of(self.app)

    @property
    def migrating_url(self) -> str:
        return self.url_of(self.owner)

    def url_of(self, role: str) -> str:
        parts = urlsplit(self.superuser_url)
        netloc = f"{quote(role, safe='')}:secret@127.0.0.1:{parts.port}"
        return parts._replace(netloc=netloc).geturl()

    async def upgrade(self) -> None:
        database = Database(self.serving_url, pool_size=1)
        try:
            await upgrade(database, self.migrating_url)
        finally:
            await database.close()

    async def held(self) -> dict[str, set[str]]:
        """The privileges of the serving role on each table."""
        connection = await asyncpg.connect(self.superuser_url)
        try:
            rows = await connection.fetch(HELD, self.app, list(SERVES))
            return {name: set(privileges) for name, privileges in rows}
        finally:
            await connection.close()


@pytest.fixture
async def elsewhere(postgres_url: str) -> AsyncIterator[Elsewhere]:
    name = uuid.uuid4().hex
    server = as_superuser(postgres_url)
    made = Elsewhere(f'App "{name}": 1', f"owner_{name}", named(server, f"elsewhere_{name}"))
    app = f'"{made.app.replace(chr(34), chr(34) * 2)}"'
    await execute(
        server,
        f"CREATE ROLE {app} LOGIN PASSWORD 'secret'",
        f"CREATE ROLE {made.owner} LOGIN PASSWORD 'secret'",
        f"CREATE DATABASE elsewhere_{name} OWNER {made.owner}",
    )
    yield made
    await execute(
        server,
        f"DROP DATABASE elsewhere_{name} WITH (FORCE)",
        f"DROP ROLE {app}",
        f"DROP ROLE {made.owner}",
    )


def test_every_table_has_a_line_in_the_grants():
    """A later migration that adds a table must add its line, too."""
    assert set(PRIVILEGES) == {*Base.metadata.tables, "alembic_version"} == set(SERVES)


async def test_one_role_migrates_and_the_other_serves(elsewhere):
    """The service starts twice on the same database and writes to every table that it needs."""
    for start in range(2):
        with running_server(
            elsewhere.serving_url, migrate_database_url=elsewhere.migrating_url
        ) as server:
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as http:
                address = f"/v1/stock/A{start}/main"
                created = {"If-None-Match": "*"}
                answer = await http.put(address, json={"available": 5}, headers=created)
                assert answer.status_code == 201
                order = {"seq": f"{start}", "lines": [{"sku": f"A{start}", "quantity": 1}]}
                answer = await http.post("/v1/reservations", json=order)
                assert answer.status_code == 201
                refund = f"{answer.headers['location']}/refunds"
                answer = await http.post(refund, json={"seq": f"{start}"})
                assert answer.status_code == 201
                assert (await http.get("/v1/audit")).json()["balanced"]
        assert await elsewhere.held() == SERVES
    await assert_books_balance(elsewhere.serving_url)


async def test_further_privileges_of_the_serving_role_are_revoked(elsewhere):
    await elsewhere.upgrade()
    connection = await asyncpg.connect(elsewhere.migrating_url)
    app = await connection.fetchval("SELECT quote_ident($1)", elsewhere.app)
    await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {app}")
    await connection.execute(f"GRANT UPDATE (kind) ON movement TO {app}")
    await connection.close()
    await elsewhere.upgrade()
    assert await elsewhere.held() == SERVES
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(elsewhere.serving_url, "UPDATE movement SET kind = kind")


@pytest.mark.parametrize(
    ("excess", "told"),
    [
        ("GRANT DELETE ON movement TO PUBLIC", "DELETE on movement"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "CREATE on schema public"),
        ("GRANT {owner} TO {app}", "DELETE on adjustment"),
        ("ALTER ROLE {app} SUPERUSER", "DELETE on adjustment"),
    ],
)
async def test_a_serving_role_with_privileges_that_cannot_be_revoked_is_refused(
    elsewhere, excess, told
):
    await elsewhere.upgrade()
    app = '"' + elsewhere.app.replace('"', '""') + '"'
    await execute(elsewhere.superuser_url, excess.format(owner=elsewhere.owner, app=app))
    with pytest.raises(GrantError, match="more privileges than it needs") as refusal:
        await elsewhere.upgrade()
    assert told in str(refusal.value)


async def test_tables_of_another_owner_are_an_error_that_names_the_remedy(elsewhere):
    """This is the case if a single role has migrated and served until now."""
    app = '"' + elsewhere.app.replace('"', '""') + '"'
    await execute(elsewhere.superuser_url, f"GRANT CREATE ON SCHEMA public TO {app}")
    database = Database(elsewhere.serving_url, pool_size=1)
    await upgrade(database)
    await execute(elsewhere.superuser_url, f"REVOKE CREATE ON SCHEMA public FROM {app}")
    with pytest.raises(SchemaError, match="MIGRATE_DATABASE_URL"):
        await elsewhere.upgrade()
    owned = f"REASSIGN OWNED BY {app} TO {elsewhere.owner}"  # the statement in docs/operations.md
    await execute(elsewhere.superuser_url, owned)
    await elsewhere.upgrade()
    assert await elsewhere.held() == SERVES
    await database.close()


async def test_two_addresses_of_different_databases_are_refused(elsewhere, database_url):
    database = Database(database_url, pool_size=1)
    with pytest.raises(SchemaError, match="both must name the same database"):
        await upgrade(database, elsewhere.migrating_url)
    await database.close()


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, environment=environment(settings))


async def test_a_role_that_may_not_migrate_gets_an_error_with_the_setting_and_can_serve_later(
    elsewhere,
):
    alone = {"database_url": elsewhere.serving_url}
    refused = command("db", "upgrade", **alone)
    assert refused.returncode == 1
    assert "MIGRATE_DATABASE_URL" in refused.stderr
    assert "permission denied" in refused.stderr
    assert "Traceback" not in refused.stderr
    both = {**alone, "migrate_database_url": elsewhere.migrating_url}
    assert command("db", "upgrade", **both).returncode == 0
    assert command("db", "upgrade", **alone).returncode == 0
    with running_server(elsewhere.serving_url) as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/health/ready")).status_code == 200


def test_the_migrating_role_without_the_serving_role_is_refused():
    refused = command("db", "upgrade", migrate_database_url="postgresql://owner@127.0.0.1:1/db")
    assert refused.returncode == 2
    assert "migrate-database-url needs database-url beside it" in refused.stderr
