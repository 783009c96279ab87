"""A key in use is looked up again in the background, and a revoked key soon stops working."""

import asyncio
import gc
import os

import asyncpg
import pytest
from click.testing import CliRunner

from db.queries import credentials
from db.session.configuration import Timeouts
from db.session.database import Database, StoreUnavailable
from service.cli import cli
from service.domain.errors import Unauthenticated, Unavailable
from service.http.access import lookups
from service.http.access.authentication import Authentication
from service.http.access.keys import store_key
from service.ops.bootstrap import ensure_first_key
from service.settings import Settings

KEY = "hf_known"
AUTHORIZATION = f"Bearer {KEY}".encode()


@pytest.fixture
async def known(database):
    await store_key(database, KEY, "shop", ["read"])
    known = Authentication(database)
    assert (await known.require(AUTHORIZATION)).caller.source == "shop"
    return known


@pytest.fixture
def slow(monkeypatch):
    """Make every look-up wait for an event from now on; return the event."""
    find, may_go = credentials.find, asyncio.Event()

    async def find_later(*arguments):
        await may_go.wait()
        return await find(*arguments)

    monkeypatch.setattr(credentials, "find", find_later)
    return may_go


async def allows(known):
    try:
        await known.require(AUTHORIZATION)
    except Unauthenticated:
        return False
    return True


async def waits(known):
    """Return True if a request waits for the look-up."""
    try:
        async with asyncio.timeout(0.1):
            await allows(known)
    except TimeoutError:
        return True
    return False


async def test_a_known_key_is_looked_up_again_in_the_background(known, slow, monkeypatch):
    monkeypatch.setattr(lookups, "RENEWED_SECONDS", 0.0)
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 60.0)
    async with asyncio.timeout(10):
        assert [await allows(known) for _ in range(3)] == [True] * 3
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.0)
    assert await waits(known)
    slow.set()
    assert await allows(known)


async def test_the_result_of_a_look_up_in_the_background_is_used(
    known, slow, monkeypatch, database_url
):
    monkeypatch.setattr(lookups, "RENEWED_SECONDS", 0.0)
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 60.0)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE api_key SET revoked_at = now()")
    await connection.close()
    assert await allows(known)
    slow.set()
    async with asyncio.timeout(10):
        while await allows(known):
            await asyncio.sleep(0.01)


async def test_the_age_of_a_look_up_counts_from_its_start(known, slow, monkeypatch):
    """The result of a slow look-up may be stale when it arrives."""
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.0)
    waiting = asyncio.create_task(known.require(AUTHORIZATION))
    await asyncio.sleep(0.2)
    slow.set()
    await waiting
    slow.clear()
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.1)
    assert await waits(known)
    slow.set()
    assert await allows(known)


async def test_a_look_up_in_the_background_that_fails_is_repeated(known, monkeypatch, caplog):
    unreachable = Database(
        "postgresql://127.0.0.1:1/none", pool_size=1, timeouts=Timeouts(connect=0.2)
    )
    monkeypatch.setattr(lookups, "RENEWED_SECONDS", 0.0)
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 60.0)
    monkeypatch.setattr(known.keys, "database", unreachable)
    assert await allows(known)
    await asyncio.sleep(0.1)
    assert await allows(known)
    await unreachable.close()
    gc.collect()
    assert "never retrieved" not in caplog.text


# Unknown keys


@pytest.fixture
def queries(monkeypatch):
    """Note how many keys each query for unknown keys has, and check that they never overlap."""
    find_each, sizes, under_way = credentials.find_each, [], []

    async def find_alone(connection, digests):
        assert not under_way
        under_way.append(1)
        sizes.append(len(digests))
        found = await find_each(connection, digests)
        under_way.clear()
        return found

    monkeypatch.setattr(credentials, "find_each", find_alone)
    return sizes


async def test_a_flood_of_unknown_keys_takes_one_connection(database, queries):
    access = Authentication(database)
    await store_key(database, "hf_new", "shop", ["read"])
    headers = [f"Bearer hf_{number}".encode() for number in range(1200)]
    headers.insert(700, b"Bearer hf_new")
    found = await asyncio.gather(*map(access.require, headers), return_exceptions=True)
    assert [each.caller.source for each in found if not isinstance(each, Exception)] == ["shop"]
    assert sum(isinstance(each, Unauthenticated) for each in found) == 1200
    assert sum(queries) == 1201
    assert len(queries) == 3


async def test_the_same_unknown_key_is_asked_once_for_all_that_wait(database, queries):
    access = Authentication(database)
    takes = (access.require(b"Bearer hf_same") for _ in range(50))
    found = await asyncio.gather(*takes, return_exceptions=True)
    assert {type(each) for each in found} == {Unauthenticated}
    assert queries == [1]


async def test_unknown_keys_get_503_while_the_database_fails_and_are_found_afterwards(
    database, monkeypatch
):
    access = Authentication(database)
    await store_key(database, KEY, "shop", ["read"])

    async def fail(*_):
        raise StoreUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(access.keys._unknown, "_find_each", fail)
        headers = [b"Bearer hf_%d" % number for number in range(700)]
        found = await asyncio.gather(*map(access.require, headers), return_exceptions=True)
        assert {type(each) for each in found} == {Unavailable}
    assert (await access.require(AUTHORIZATION)).caller.source == "shop"


async def test_a_request_that_gives_up_takes_the_answer_from_no_other(database, monkeypatch):
    access = Authentication(database)
    await store_key(database, KEY, "shop", ["read"])
    waiting = [asyncio.create_task(access.require(AUTHORIZATION)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert (await waiting[1]).caller.source == "shop"


async def test_the_first_key_stays_private_even_if_another_user_has_created_files_in_advance(
    database, tmp_path
):
    planted = tmp_path / f"admin.{os.getpid()}"  # an older version prepared the key in this file
    planted.touch()
    planted.chmod(0o666)
    await ensure_first_key(database, Settings(data_dir=tmp_path))
    file = tmp_path / "admin.key"
    assert file.read_text().startswith("hf_")
    assert file.stat().st_mode & 0o777 == 0o600
    assert planted.read_text() == ""


@pytest.mark.parametrize("source", ["", " x", "x\u200b", "\ufeffx", "\u202ex", "a\nb", "x" * 129])
def test_the_source_of_a_key_follows_the_rules_of_names(source):
    arguments = ["key", "create", "--scope", "read", "--source", source]
    result = CliRunner().invoke(
        cli, [*arguments, "--database-url", "postgresql://nowhere.invalid/x"]
    )
    assert result.exit_code == 2
    assert "--source " in result.output
    assert "Traceback" not in result.output
