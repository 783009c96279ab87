"""Background services start together, start again when they die, and stop within a given time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest

from service.engine import background
from service.engine.background import BackgroundServices
from service.http.app import background_services


class Service:
    """A service whose work is a function of the number of the run, which begins with 1."""

    def __init__(self, work: Callable[[int], Awaitable[None]], name: str = "tested") -> None:
        self.name = name
        self.work = work
        self.runs = 0
        self.is_running = False
        self.began = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        self.is_running = True
        self.began.set()
        try:
            await self.work(self.runs)
        finally:
            self.is_running = False

    async def reaches_run(self, number: int) -> None:
        async with asyncio.timeout(20):
            while self.runs < number:
                self.began.clear()
                await self.began.wait()


async def work_until_cancelled(_: int) -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A mock of the log, because drawing the traceback of a planned failure takes a second."""
    mock = Mock()
    monkeypatch.setattr(background, "log", mock)
    return mock


@pytest.fixture
def restarts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RESTART_SECONDS", 0.0)


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[BackgroundServices]:
    started = BackgroundServices(services)
    started.start()
    try:
        yield started
    finally:
        await started.stop()


async def test_all_services_of_the_list_run_until_they_are_stopped(log):
    services = [Service(work_until_cancelled), Service(work_until_cancelled)]
    async with running(*services):
        for service in services:
            await service.reaches_run(1)
        assert all(service.is_running for service in services)
    assert not any(service.is_running for service in services)
    assert [service.runs for service in services] == [1, 1]
    assert log.mock_calls == []


async def test_services_that_run_already_are_not_started_again():
    service = Service(work_until_cancelled)
    async with running(service) as services:
        await service.reaches_run(1)
        services.start()
        await asyncio.sleep(0)
        assert service.runs == 1


async def test_stopping_is_allowed_before_the_start_and_twice():
    service = Service(work_until_cancelled)
    services = BackgroundServices([service])
    await services.stop()
    services.start()
    await service.reaches_run(1)
    await services.stop()
    await services.stop()
    assert (service.runs, service.is_running) == (1, False)


async def test_stopped_services_can_be_started_again():
    service = Service(work_until_cancelled)
    async with running(service) as services:
        await service.reaches_run(1)
        await services.stop()
        services.start()
        await service.reaches_run(2)
        assert service.is_running


async def raise_twice(run: int) -> None:
    if run <= 2:
        raise RuntimeError("planned")
    await asyncio.Event().wait()


async def test_a_service_that_raises_is_logged_and_started_again(restarts_at_once, log):
    service = Service(raise_twice, "fragile")
    async with running(service):
        await service.reaches_run(3)
        assert service.is_running
    assert log.exception.call_count == 2
    log.exception.assert_called_with("background_service_failed", service="fragile")


async def test_a_service_that_raises_does_not_disturb_the_others(restarts_at_once):
    sound, fragile = Service(work_until_cancelled), Service(raise_twice)
    async with running(sound, fragile):
        await fragile.reaches_run(3)
        assert (sound.runs, sound.is_running) == (1, True)


async def return_once(run: int) -> None:
    if run > 1:
        await asyncio.Event().wait()


async def test_a_service_that_returns_is_logged_and_started_again(restarts_at_once, log):
    service = Service(return_once, "forgetful")
    async with running(service):
        await service.reaches_run(2)
    log.error.assert_called_once_with("background_service_ended", service="forgetful")


async def always_raise(_: int) -> None:
    raise RuntimeError("planned")


async def test_the_pause_before_a_restart_doubles_up_to_its_bound(monkeypatch):
    monkeypatch.setattr(background, "RESTART_SECONDS", 1.0)
    monkeypatch.setattr(background, "RESTART_SECONDS_MAX", 5.0)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(background.asyncio, "sleep", note)
    service = Service(always_raise)
    async with running(service):
        await service.reaches_run(6)
    assert pauses[:5] == [1, 2, 4, 5, 5]


async def fail_when_cancelled(_: int) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise RuntimeError("planned")


async def return_when_cancelled(_: int) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize("work", [fail_when_cancelled, return_when_cancelled])
async def test_a_service_that_dies_while_it_stops_is_not_started_again(restarts_at_once, work):
    service = Service(work)
    async with running(service) as services:
        await service.reaches_run(1)
        await services.stop()
        await asyncio.sleep(0.01)
    assert (service.runs, service.is_running) == (1, False)


async def test_a_service_that_never_stops_is_logged_and_the_others_are_stopped(monkeypatch, log):
    monkeypatch.setattr(background, "STOP_SECONDS_MAX", 0.01)
    may_end = asyncio.Event()

    async def ignore_the_cancellation(_: int) -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    stubborn, sound = Service(ignore_the_cancellation, "stubborn"), Service(work_until_cancelled)
    async with running(stubborn, sound) as services:
        await stubborn.reaches_run(1)
        await sound.reaches_run(1)
        async with asyncio.timeout(10):
            await services.stop()
        assert (stubborn.is_running, sound.is_running) == (True, False)
    log.error.assert_called_once_with("background_service_does_not_stop", service="stubborn")
    may_end.set()
    async with asyncio.timeout(10):
        while stubborn.is_running:
            await asyncio.sleep(0)


async def test_a_worker_runs_the_sweeper_and_writes_the_uses_of_keys(service):
    services = service.app.worker
    names = [each.name for each in background_services(services)]
    assert {"sweeper", "last_uses", "access_log"} <= set(names)
    unswept = [each.name for each in background_services(services, sweeps=False)]
    assert unswept == [name for name in names if name != "sweeper"]
