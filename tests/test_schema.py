"""The schema: migrations equal the models, upgrades can overlap, every look-up uses an index."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from db.ledger import apply as writes
from db.ledger import load as reads
from db.migrate import upgrade
from db.models import Base
from db.queries import lists
from db.rows import Adjustment, ImportJob, Line, Refund, Wanted
from db.session.database import Database, Transaction
from service.domain.commands import (
    AdjustStock,
    Caller,
    Cancel,
    Command,
    Confirm,
    ImportStock,
    RefundUnits,
    Reserve,
    SetStock,
    wanted_by,
)
from service.domain.identifiers import reservation_id
from service.domain.planner import plan
from tests.conftest import fresh_database, named
from tests.roles import as_superuser

COLUMNS = """
    SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, collname,
           pg_get_expr(adbin, adrelid)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
        AND NOT attisdropped
"""
CONSTRAINTS = """
    SELECT relname, conname, contype::text, pg_get_constraintdef(pg_constraint.oid)
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE relnamespace = 'public'::regnamespace
"""
INDEXES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE relnamespace = 'public'::regnamespace
"""
OPTIONS = """
    SELECT relname, relkind::text, reloptions FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
"""
CATALOGS = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES, "options": OPTIONS}


@asynccontextmanager
async def empty_database(postgres_url: str) -> AsyncIterator[str]:
    """The address of a database without any table."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield named(postgres_url, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


async def described(url: str) -> dict[str, set[Any]]:
    """Read the schema from the catalogs, without the table of Alembic."""
    connection = await asyncpg.connect(url)
    found = {
        name: {str(tuple(row)) for row in await connection.fetch(select)}
        for name, select in CATALOGS.items()
    }
    await connection.close()
    return {
        name: {row for row in rows if "alembic_version" not in row} for name, rows in found.items()
    }


async def test_the_migrations_make_the_schema_that_the_models_describe(postgres_url):
    async with fresh_database(postgres_url) as migrated, empty_database(postgres_url) as modelled:
        database = Database(modelled, pool_size=1)
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await database.close()
        by_migrations, by_models = await described(migrated), await described(modelled)
    for name, rows in by_models.items():
        assert rows, name
        assert rows == by_migrations[name]


async def test_upgrades_of_an_empty_database_can_overlap(postgres_url):
    async with empty_database(postgres_url) as url:
        databases = [Database(url, pool_size=1) for _ in range(4)]
        await asyncio.gather(*(upgrade(database) for database in databases))
        for database in databases:
            await upgrade(database)
            await database.close()
        async with fresh_database(postgres_url) as reference:
            assert await described(url) == await described(reference)


async def test_upgrades_by_several_processes_can_overlap(postgres_url):
    async with empty_database(postgres_url) as url:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", "db", "upgrade", "--database-url", url
            )
            for _ in range(3)
        ]
        assert [await process.wait() for process in processes] == [0, 0, 0]
        async with fresh_database(postgres_url) as reference:
            assert await described(url) == await described(reference)


US = Caller("us")


def reserve(seq: str, sku: str, hold: int | None = None) -> Reserve:
    return Reserve("us", seq, None, (Line(sku, "main", 1),), hold, {}, reservation_id("us", seq))


BEFORE: list[Command] = [
    *(SetStock(sku, "main", 5, None, None, None) for sku in "ABC"),
    reserve("hold", "A", 60),
    reserve("other", "A", 60),
    reserve("sale", "B"),
    ImportStock("us", "begun", "digest", (("C", "main", 1, None),), 0, 2),
]
EVERY_PART: list[Command] = [
    reserve("1", "A"),
    Reserve(
        "us",
        "2",
        None,
        (Line("A", "main", 1), Line("C", "main", 9)),
        None,
        {},
        reservation_id("us", "2"),
    ),
    Confirm(US, reservation_id("us", "hold"), None),
    Cancel(US, reservation_id("us", "other")),
    RefundUnits(US, reservation_id("us", "sale"), "1", None, None),
    AdjustStock("us", "1", "B", "main", 1, "count", None),
    ImportStock("us", "job", "digest", (("D", "main", 1, None),)),
    ImportStock("us", "begun", "digest", (("E", "main", 1, None),), 1, 2),
]
"""Commands whose writes have a row in every part of the statement."""


async def carry_out(database: Database, commands: list[Command]) -> None:
    async def work(transaction: Transaction) -> None:
        snapshot = await reads.load(transaction.connection, wanted_by(commands))
        await writes.apply(transaction, plan(snapshot, commands).writes)

    await database.transact(work)


FILL = (
    """
    INSERT INTO stock (sku, location, available, held, version, created_at, updated_at)
    SELECT 'x' || n, 'main', 1, 0, 1, now(), now() FROM generate_series(1, 3000) AS n
    """,
    """
    INSERT INTO reservation (id, source, seq, state, version, metadata, created_at, updated_at)
    SELECT gen_random_uuid(), 'x', n::text, 'confirmed', 1, '{}', now(), now()
    FROM generate_series(1, 3000) AS n
    """,
    """
    INSERT INTO reservation_line
    SELECT id, 'x' || seq, 'main', 1, 1, 0 FROM reservation WHERE source = 'x'
    """,
    """
    INSERT INTO refund
    SELECT id, gen_random_uuid(), source, seq, true, NULL, now() FROM reservation
    WHERE source = 'x'
    """,
    "INSERT INTO refund_line SELECT reservation_id, id, 'x', 'main', 1 FROM refund",
    """
    INSERT INTO adjustment
    SELECT sku, location, 1, gen_random_uuid(), 'x', sku, 1, 'x', now() FROM stock
    """,
    """
    INSERT INTO source_limit (source, tracking, open_holds, held_units, version)
    SELECT sku, 'off', 0, 0, 1 FROM stock
    """,
    """
    INSERT INTO import_job (source, job, digest, rows_in_all, created, skipped, created_at)
    SELECT 'x', sku, 'x', 0, 0, 0, now() FROM stock
    """,
)


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of an EXPLAIN (FORMAT JSON)."""
    yield tree
    for child in tree.get("Plans", ()):
        yield from nodes(child)


async def explained(connection: Any, statement: Any, parameters: Any) -> list[dict[str, Any]]:
    question = text(f"EXPLAIN (FORMAT JSON) {statement.text}")
    answer = await connection.scalar(question, parameters)
    tree = answer if isinstance(answer, list) else json.loads(answer)
    return list(nodes(tree[0]["Plan"]))


EVERYTHING = Wanted(
    reservations={reservation_id("us", "hold")},
    own_reservations={(reservation_id("us", "sale"), "us")},
    identities={("us", "hold")},
    stock={("A", "main")},
    answers={
        Refund: {("us", "1")},
        Adjustment: {("us", "1")},
        ImportJob: {("us", "job")},
    },
    overdue={("A", "main")},
    holders={"us"},
    may_end_holds=True,
)
LIMITED = """
    INSERT INTO source_limit (source, open_holds_max, tracking, open_holds, held_units, version)
    VALUES ('us', 9, 'on', 2, 2, 1)
"""


async def scanned_tables(postgres_url: str, *, filled: bool) -> list[str]:
    """Return the tables that a statement of the ledger would scan."""
    async with fresh_database(postgres_url) as url:
        database = Database(as_superuser(url), pool_size=2)  # only this role may run ANALYZE
        for command in BEFORE:
            await carry_out(database, [command])
        async with database.engine.begin() as connection:
            for statement in (LIMITED, *(FILL if filled else ())):
                await connection.execute(text(statement))
            await connection.execute(text("ANALYZE"))
            snapshot = await reads.load(connection, wanted_by(EVERY_PART))
            planned = plan(snapshot, EVERY_PART).writes
            assert all(getattr(planned, part.name) for part in fields(planned))
            rows = writes._rows(planned)
            assert rows.keys() == writes.PARTS.keys()
            read = (reads._statement(EVERYTHING), reads._parameters(EVERYTHING))
            written = (writes._statement(tuple(rows)), writes._parameters(rows))
            overdue = (lists.OVERDUE_HOLDS, {"holds_max": 10})
            found = [
                node
                for statement, parameters in (read, written, overdue)
                for node in await explained(connection, statement, parameters)
            ]
        await database.close()
    assert {node.get("Relation Name") for node in found} > {"stock", "reservation", "refund_line"}
    return [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize("filled", [False, True])
async def test_the_ledger_never_scans_a_table(postgres_url, filled):
    """The statements are planned for small tables, as in a new database, and for large tables."""
    assert await scanned_tables(postgres_url, filled=filled) == []


async def test_without_its_settings_the_ledger_would_scan(postgres_url, monkeypatch):
    monkeypatch.setattr("db.session.configuration.NEVER_SCANS", ())
    assert await scanned_tables(postgres_url, filled=False) != []
