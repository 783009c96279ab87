"""Audits leave the database to other requests: one runs at a time, and callers share it."""

import asyncio

import asyncpg
import pytest

from db.queries import audit as audits
from db.queries.audit import LOCK, audit
from db.session.database import StoreUnavailable
from service.engine.audits import SharedAudits


@pytest.fixture
def counted(monkeypatch):
    """Counts the audits that run now, that ran at the same time at most, and that have begun.

    Each audit waits for `may_end`.
    """

    class Counted:
        now = most = begun = 0
        may_end = asyncio.Event()

    async def check(connection):
        Counted.begun += 1
        Counted.now += 1
        Counted.most = max(Counted.most, Counted.now)
        await Counted.may_end.wait()
        Counted.now -= 1
        return audits.Audit(Counted.begun, 0)

    Counted.may_end.clear()
    monkeypatch.setattr(audits, "_check", check)
    return Counted


async def begun(counted, number):
    async with asyncio.timeout(20):
        while counted.begun < number:
            await asyncio.sleep(0.005)


async def test_callers_that_ask_during_an_audit_share_the_next_one(database, counted):
    """The running audit would miss the changes that the caller made after the audit began."""
    shared = SharedAudits(database)
    first = asyncio.create_task(shared.run())
    await begun(counted, 1)
    others = [asyncio.create_task(shared.run()) for _ in range(20)]
    await asyncio.sleep(0)
    counted.may_end.set()
    assert (await first).stock == 1
    assert {found.stock for found in await asyncio.gather(*others)} == {2}
    assert (counted.begun, counted.most) == (2, 1)
    assert (await shared.run()).stock == 3


async def test_a_caller_that_disconnects_does_not_end_the_audit_of_the_others(database, counted):
    shared = SharedAudits(database)
    first = asyncio.create_task(shared.run())
    await begun(counted, 1)
    second, third = (asyncio.create_task(shared.run()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    counted.may_end.set()
    assert (await third).stock == 2
    assert counted.most == 1


async def test_one_audit_runs_at_a_time_among_all_services_of_a_database(database, counted):
    each = [asyncio.create_task(SharedAudits(database).run()) for _ in range(3)]
    counted.may_end.set()
    assert sorted([found.stock for found in await asyncio.gather(*each)]) == [1, 2, 3]
    assert counted.most == 1


async def test_the_wait_for_another_audit_is_bounded(database, database_url):
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        with pytest.raises(StoreUnavailable, match="audit"):
            await audit(database, seconds_max=1)
    await other.close()
