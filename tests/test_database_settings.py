"""Databases whose operators have chosen other settings or another encoding."""

import asyncio
import os
import re
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import text

from db.embedded.roles import Role
from db.migrate import upgrade
from db.session.configuration import INTRODUCTION, RELIED_ON_SINCE, Timeouts, relied_on
from db.session.database import Database, StoreUnavailable
from db.session.fitness import UnfitDatabase, concerns, granted_connections
from tests.brokers import running_pgbouncer
from tests.conftest import Service, fresh_database, named, running_service
from tests.preloaded import run_command
from tests.roles import as_role, as_superuser, authorization_clause

RELIED_ON = {
    "client_encoding": "LATIN1",
    "TimeZone": "Pacific/Apia",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "exit_on_error": "on",
    "lock_timeout": "3ms",
    "statement_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "transaction_timeout": "2s",
    "jit": "on",
    "plan_cache_mode": "force_custom_plan",
    "enable_nestloop": "off",
    "enable_indexscan": "off",
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
}
"""The settings that the service relies on, each with a value that would break it."""

LEFT_ALONE = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "transform_null_equals": "on",
    "backslash_quote": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "row_security": "off",
    "search_path": "pg_temp, public, pg_catalog",
    "client_min_messages": "debug5",
    "quote_all_identifiers": "on",
    "idle_session_timeout": "200ms",
    "work_mem": "64kB",
    "from_collapse_limit": "1",
    "join_collapse_limit": "1",
    "geqo_threshold": "2",
    "random_page_cost": "1e6",
    "enable_bitmapscan": "off",
    "enable_indexonlyscan": "off",
    "enable_sort": "off",
    "enable_hashagg": "off",
    "enable_material": "off",
    "parallel_setup_cost": "0",
    "min_parallel_table_scan_size": "0",
    "xmlbinary": "hex",
}
"""The settings that the service leaves to the operator, because it works with any value."""

SKU = "🦑 NULL \\ {\"'é"


@asynccontextmanager
async def database_with(postgres_url: str, settings: dict[str, str]) -> AsyncIterator[str]:
    """The address of a fresh database with these settings, as far as the server knows them."""
    async with fresh_database(postgres_url) as url:
        connection = await asyncpg.connect(as_superuser(postgres_url))
        for name, value in settings.items():
            if await connection.fetchval("SELECT current_setting($1, true)", name) is None:
                continue
            as_list = value if name == "search_path" else f"'{value}'"
            await connection.execute(
                f"ALTER DATABASE {url.rpartition('/')[2]} SET {name} = {as_list}"
            )
        await connection.close()
        yield url


async def use_everything(service: Service) -> None:
    """Make every kind of change of stock, with names that are difficult in literals and arrays."""
    client, path = service.client, f"/v1/stock/{quote(SKU, safe='')}/main"
    created = await client.put(path, json={"available": 10}, headers={"If-None-Match": "*"})
    assert created.status_code == 201, created.text
    refused = await client.post(
        f"{path}/adjustments", json={"seq": SKU, "delta": -11, "reason": SKU}
    )
    assert refused.status_code == 409, refused.text
    held = await service.reserve("1", (SKU, 3), hold_seconds=600, metadata={SKU: SKU})
    assert held.status_code == 201, held.text
    id_ = held.json()["id"]
    short = await service.reserve("2", (SKU, 30))
    assert short.status_code == 409, short.text
    part = {"lines": [{"sku": SKU, "quantity": 2}]}
    assert (await client.post(f"/v1/reservations/{id_}/confirm", json=part)).status_code == 200
    refund = {"seq": "r", "lines": [{"sku": SKU, "quantity": 1}], "reason": SKU}
    again = [await client.post(f"/v1/reservations/{id_}/refunds", json=refund) for _ in range(2)]
    assert [answer.status_code for answer in again] == [201, 200]
    rows = await client.post(
        "/v1/imports?job=j",
        content=f'sku,location,available\n"{SKU.replace(chr(34), 2 * chr(34))} 2",main,5\n',
        headers={"Content-Type": "text/csv"},
    )
    assert rows.status_code == 201, rows.text
    listed = await client.get("/v1/stock", params={"sku_prefix": SKU})
    assert [item["sku"] for item in listed.json()["items"]] == [SKU, f"{SKU} 2"]
    found = await client.get("/v1/reservations", params={"sku": SKU, "state": "confirmed"})
    assert [item["metadata"] for item in found.json()["items"]] == [{SKU: SKU}]
    assert (await client.get(f"{path}/movements")).status_code == 200
    assert (await client.get("/v1/audit")).json()["balanced"] is True


@pytest.mark.parametrize(("name", "value"), [*RELIED_ON.items(), *LEFT_ALONE.items()])
async def test_the_service_works_with_any_setting_of_a_role_or_a_database(
    postgres_url, name, value
):
    async with (
        database_with(postgres_url, {name: value}) as url,
        running_service(url) as service,
    ):
        await use_everything(service)


async def test_the_service_works_with_all_of_these_settings_at_once(postgres_url):
    settings = {**LEFT_ALONE, **RELIED_ON, "random_page_cost": "4"}
    async with database_with(postgres_url, settings) as url, running_service(url) as service:
        await use_everything(service)


def test_every_setting_that_is_relied_on_has_a_hostile_value():
    assert RELIED_ON.keys() == relied_on(Timeouts()).keys() | RELIED_ON_SINCE.keys()


async def in_force(url: str) -> dict[str, str]:
    """The value of each setting in the service's own transactions."""

    async def work(connection: Any) -> dict[str, str]:
        rows = await connection.execute(text("SELECT name, setting FROM pg_settings"))
        return {row.name: row.setting for row in rows}

    database = Database(url, pool_size=3)
    try:
        return await database.read(work)
    finally:
        await database.close()


SLOW = {name: "0" for name in RELIED_ON if name.endswith("_timeout")}
"""Behind a pooler the role's timeouts apply until the first statement has set the service's."""


@pytest.mark.parametrize("mode", ["direct", "transaction", "session"])
async def test_the_settings_that_the_service_relies_on_are_in_force(postgres_url, mode):
    wanted = {**relied_on(Timeouts()), **RELIED_ON_SINCE}
    async with database_with(postgres_url, {**RELIED_ON, **SLOW}) as url:
        if mode == "direct":
            found = await in_force(url)
            assert {name: found[name] for name in INTRODUCTION} == INTRODUCTION
        else:
            with running_pgbouncer(url, pool_mode=mode) as through:
                found = await in_force(through)
        assert {name: found.get(name, value) for name, value in wanted.items()} == wanted


@pytest.mark.parametrize(
    ("name", "value"), [("search_path", "shop"), ("synchronous_commit", "off")]
)
async def test_a_setting_of_the_operator_stays_in_force(postgres_url, name, value):
    async with database_with(postgres_url, {name: value}) as url:
        found = await in_force(url)
    assert found[name] == value


async def test_a_database_that_is_read_only_by_default_counts_as_unavailable(postgres_url):
    """Hosting providers set this when a disk is full."""
    async with database_with(postgres_url, {"default_transaction_read_only": "on"}) as url:
        database = Database(url, pool_size=3)
        with pytest.raises(StoreUnavailable) as refusal:
            await database.ping()
        assert "default_transaction_read_only" in str(refusal.value.__cause__)
        await database.close()


@asynccontextmanager
async def encoded(postgres_url: str, encoding: str) -> AsyncIterator[str]:
    """An empty database with this encoding."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    )
    try:
        yield named(postgres_url, name)
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


def holdfast(*command: str, url: str, directory: Path) -> subprocess.CompletedProcess[str]:
    settings = {"HOLDFAST_DATABASE_URL": url, "HOLDFAST_DATA_DIR": str(directory)}
    return run_command(*command, environment={**os.environ, **settings})


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("command", ["serve", "db upgrade"])
async def test_a_database_of_another_encoding_is_refused_with_one_sentence(
    postgres_url, encoding, command, tmp_path
):
    async with encoded(postgres_url, encoding) as url:
        run = await asyncio.to_thread(holdfast, *command.split(), url=url, directory=tmp_path)
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT to_regclass('alembic_version')") is None
        await connection.close()
    assert run.returncode == 1
    assert re.fullmatch(rf"holdfast: .* has the encoding {encoding}, .*\n", run.stderr)
    assert "ENCODING 'UTF8' TEMPLATE template0" in run.stderr


async def test_a_search_path_without_a_schema_is_refused_with_one_sentence(postgres_url):
    async with database_with(postgres_url, {"search_path": "shop"}) as url:
        database = Database(url, pool_size=3)
        with pytest.raises(UnfitDatabase, match=r"search_path \(shop\) names no schema"):
            await upgrade(database)
        await database.close()


async def test_the_schema_in_the_search_path_is_used(postgres_url):
    async with database_with(postgres_url, {"search_path": "shop"}) as url:
        connection = await asyncpg.connect(as_superuser(url))
        await connection.execute(f"CREATE SCHEMA shop {authorization_clause(url)}")
        await connection.close()
        database = Database(url, pool_size=3)
        await upgrade(database, as_role(url, Role.MIGRATING))
        await database.close()
        async with running_service(url) as service:
            await use_everything(service)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"synchronous_commit": "off"}, ["synchronous_commit is off"]),
        ({"synchronous_commit": "local"}, []),
    ],
)
async def test_each_setting_that_can_lose_a_write_is_reported_once(
    postgres_url, settings, expected
):
    async with database_with(postgres_url, settings) as url:
        database = Database(f"{url}?channel_binding=require", pool_size=3)
        told = await concerns(database)
        await database.close()
    of_the_server = [each for each in told if each.startswith(("fsync", "full_page_writes"))]
    assert [each.split(":")[0].split(" for ")[0] for each in told if each not in of_the_server] == [
        "The database's address asks",
        *expected,
    ]
    connection = await asyncpg.connect(postgres_url)
    assert len(of_the_server) == sum(
        [
            await connection.fetchval(f"SHOW {name}") == "off"
            for name in ("fsync", "full_page_writes")
        ]
    )
    await connection.close()


async def test_the_number_of_connections_that_a_role_may_have_is_known(postgres_url, database):
    granted = await granted_connections(database)
    connection = await asyncpg.connect(postgres_url)
    most = int(await connection.fetchval("SHOW max_connections"))
    await connection.close()
    assert granted is not None
    assert 0 < granted < most
