"""A key in use is looked up again in the background; it soon stops working once it is revoked,
ends exactly when it expires, and its last use is stored."""

import asyncio
import gc
import os
from types import SimpleNamespace

import asyncpg
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from db.queries import credentials
from db.session.configuration import Timeouts
from db.session.database import Database, StoreUnavailable
from service.cli import cli
from service.domain.errors import Unauthenticated, Unavailable
from service.http.access import last_uses, lookups
from service.http.access.authentication import Authentication
from service.http.access.keys import end_other_first_keys, prefix_of, store_key
from service.http.access.last_uses import LastUses
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


async def test_a_key_that_expires_is_refused_from_then_on_although_its_look_up_is_trusted(
    known, monkeypatch, database_url
):
    monkeypatch.setattr(lookups, "RENEWED_SECONDS", 60.0)
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 60.0)
    connection = await asyncpg.connect(database_url)
    left = "1 second"
    await connection.execute(f"UPDATE api_key SET expires_at = clock_timestamp() + '{left}'")
    known.keys._known.clear()
    assert await allows(known)
    (credential,) = known.keys._known.values()
    assert 0 < credential.ends_at - credential.looked_up_at <= 1
    while await allows(known):
        is_early = await connection.fetchval("SELECT expires_at > clock_timestamp() FROM api_key")
        await asyncio.sleep(0.01)
    assert not await connection.fetchval("SELECT expires_at > clock_timestamp() FROM api_key")
    assert is_early
    await connection.close()


async def test_a_key_whose_time_ends_during_its_look_up_is_refused(known, monkeypatch):
    find = credentials.find

    async def find_late(*arguments):
        row = await find(*arguments)
        return SimpleNamespace(**{**row._mapping, "seconds_left": 0.0})

    monkeypatch.setattr(credentials, "find", find_late)
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.0)
    assert not await allows(known)


async def last_use(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval("SELECT last_used_at FROM api_key")
    finally:
        await connection.close()


async def test_the_first_use_is_stored_before_its_answer(database, database_url):
    await store_key(database, KEY, "shop", ["read"])
    assert await last_use(database_url) is None
    assert await allows(Authentication(database))
    assert await last_use(database_url) is not None


async def test_a_later_use_is_stored_in_the_background_once_a_minute(
    known, monkeypatch, database_url
):
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.0)
    monkeypatch.setattr(last_uses, "GATHER_SECONDS", 0.0)
    service = asyncio.create_task(known.keys.last_uses.run())
    first = await last_use(database_url)
    for _ in range(5):
        assert await allows(known)
    assert not known.keys.last_uses._due
    assert await last_use(database_url) == first
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE api_key SET last_used_at = last_used_at - interval '1 minute'")
    await connection.close()
    assert await allows(known)
    async with asyncio.timeout(10):
        while await last_use(database_url) < first:
            await asyncio.sleep(0.01)
    service.cancel()


async def test_a_database_that_can_not_store_the_use_does_not_refuse_the_request(
    database, database_url, monkeypatch
):
    monkeypatch.setattr(last_uses, "FIRST_USE_SECONDS_MAX", 0.05)
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.0)
    await store_key(database, KEY, "shop", ["read"])
    known = Authentication(database)
    holder = await asyncpg.connect(database_url)
    await holder.execute("BEGIN; LOCK TABLE api_key IN EXCLUSIVE MODE")
    assert await allows(known)
    assert await last_use(database_url) is None
    assert known.keys.last_uses._due
    await holder.execute("ROLLBACK")
    await holder.close()
    service = asyncio.create_task(known.keys.last_uses.run())
    async with asyncio.timeout(10):
        while await last_use(database_url) is None:
            await asyncio.sleep(0.01)
    service.cancel()


async def test_a_failed_attempt_to_store_a_use_is_not_repeated_with_each_request(
    database, monkeypatch
):
    monkeypatch.setattr(lookups, "BELIEVED_SECONDS", 0.0)
    monkeypatch.setattr(last_uses, "GATHER_SECONDS", 0.0)
    attempts = 0

    async def fail(*_):
        nonlocal attempts
        attempts += 1
        raise StoreUnavailable("the database is read-only")

    monkeypatch.setattr(credentials, "note_uses", fail)
    await store_key(database, KEY, "shop", ["read"])
    known = Authentication(database)
    assert await allows(known)
    service = asyncio.create_task(known.keys.last_uses.run())
    async with asyncio.timeout(10):
        while attempts < 2:
            await asyncio.sleep(0.01)
    for _ in range(5):
        assert await allows(known)
    assert attempts == 2
    service.cancel()


async def test_a_use_whose_row_is_locked_elsewhere_is_skipped(database, database_url):
    """Two workers that store the uses of the same keys never wait for each other."""
    id_ = await store_key(database, KEY, "shop", ["read"])
    holder = await asyncpg.connect(database_url)
    await holder.execute("BEGIN; SELECT 1 FROM api_key FOR UPDATE")
    async with asyncio.timeout(10):
        await LastUses(database)._store({id_})
    assert await last_use(database_url) is None
    await holder.close()


async def test_an_expired_admin_key_does_not_count_when_a_service_starts(database, tmp_path):
    await store_key(database, KEY, "admin", ["admin"])
    assert await database.read(credentials.has_admin)

    async def expire(transaction):
        await transaction.connection.execute(
            text("UPDATE api_key SET expires_at = clock_timestamp()")
        )

    await database.transact(expire)
    assert not await database.read(credentials.has_admin)
    await ensure_first_key(database, Settings(data_dir=tmp_path))
    assert (tmp_path / "admin.key").exists()
    assert await database.read(credentials.has_admin)


async def test_a_chosen_first_key_that_is_revoked_ends_no_other_first_key(database):
    chosen, other = "hf_chosen", "hf_other"
    for value in (chosen, other):
        await store_key(database, value, "admin", ["admin"], is_first=True)
    assert await end_other_first_keys(database, chosen, None)
    assert not await end_other_first_keys(database, other, None)
    assert await database.read(credentials.has_admin)


@pytest.mark.parametrize(("key", "prefix"), [("x" * 31, None), ("hf_" + "y" * 29, "hf_yyyyy")])
def test_the_prefix_of_a_key_leaves_most_of_it_unknown(key, prefix):
    assert prefix_of(key) == prefix
