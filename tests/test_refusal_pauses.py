"""A source that goes on after a refusal waits for its next refusals, and no other source does."""

import asyncio
from types import SimpleNamespace

import pytest

from service.http.limits import refusal_pauses
from service.http.limits.refusal_pauses import AT_ONCE_MAX, PAUSED_MAX, RefusalPauses
from tests.conftest import running_service


@pytest.fixture
def pauses(monkeypatch):
    """Pauses in a second that does not end."""
    monkeypatch.setattr(refusal_pauses, "time", SimpleNamespace(monotonic=lambda: 7.0))
    return RefusalPauses()


async def is_paused(pauses, source):
    """Ask for a refusal, and tell whether it waits; it is cancelled then."""
    asking = asyncio.create_task(pauses.pause(source))
    await asyncio.sleep(0)
    is_waiting = not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return is_waiting


async def test_the_first_refusals_in_a_second_are_sent_at_once_and_further_ones_wait(pauses):
    answers = [await is_paused(pauses, "noisy") for _ in range(AT_ONCE_MAX + 2)]
    assert answers == [False] * AT_ONCE_MAX + [True, True]
    assert not await is_paused(pauses, "another")


async def test_the_next_second_begins_anew(pauses, monkeypatch):
    for _ in range(AT_ONCE_MAX + 1):
        await is_paused(pauses, "noisy")
    monkeypatch.setattr(refusal_pauses, "time", SimpleNamespace(monotonic=lambda: 8.0))
    assert not await is_paused(pauses, "noisy")


async def test_the_refusals_that_wait_are_bounded(pauses):
    for _ in range(AT_ONCE_MAX):
        assert not await is_paused(pauses, "noisy")
    waiting = [asyncio.create_task(pauses.pause("noisy")) for _ in range(PAUSED_MAX)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    assert not await is_paused(pauses, "noisy")
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await is_paused(pauses, "noisy")


async def test_sources_beyond_the_bound_are_refused_at_once(pauses, monkeypatch):
    monkeypatch.setattr(refusal_pauses, "SOURCES_MAX", 1)
    await pauses.pause("first")
    for _ in range(AT_ONCE_MAX + 1):
        assert not await is_paused(pauses, "second")


async def test_a_request_that_is_refused_for_its_rate_asks_for_a_pause(database_url, monkeypatch):
    asked = []

    async def note(_, source):
        asked.append(source)

    monkeypatch.setattr(RefusalPauses, "pause", note)
    async with running_service(database_url, rate_limit=1) as service:
        shop = await service.key("shop", "read")
        gets = [service.client.get("/v1/stock", headers=shop) for _ in range(20)]
        statuses = [answer.status_code for answer in await asyncio.gather(*gets)]
    assert asked == ["shop"] * statuses.count(429)
    assert asked
