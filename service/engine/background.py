"""Background services: the work that a worker does besides answering requests.

All of them have one contract, and a worker starts and stops them as one list (as do the maintenance
services of riverqueue/river). To add a service, write a class with a `name` and a `run`, and append
it to the list that the application builds.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

log = structlog.get_logger()

RESTART_SECONDS = 0.5  # before a service that died starts again; doubles each time that it dies
RESTART_SECONDS_MAX = 60.0  # a service that never works again then logs one traceback a minute
STOP_SECONDS_MAX = 2.0  # for all services together, before the shutdown goes on without them


class BackgroundService(Protocol):
    """Work that goes on for as long as the worker runs.

    `run` works until it is cancelled, and ends soon after. It handles the failures that it expects;
    if it raises or returns before that, it has died: the error is logged and `run` called again.
    So a service keeps nothing in memory that it can't do without.
    """

    @property
    def name(self) -> str:
        """The name of the service in the log."""

    async def run(self) -> None:
        """Work until cancelled."""


class BackgroundServices:
    """The background services of a worker, started and stopped together."""

    def __init__(self, services: Sequence[BackgroundService]) -> None:
        self.services = services
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._is_stopping = False

    def start(self) -> None:
        """Start the services. Does nothing if they have been started already."""
        if self._tasks:
            return
        self._is_stopping = False
        for service in self.services:
            self._tasks[asyncio.create_task(self._keep_running(service))] = service.name

    async def stop(self) -> None:
        """Cancel the services and return when all have ended, or else after `STOP_SECONDS_MAX`.

        Does nothing if they have not been started, or have been stopped already.
        """
        self._is_stopping = True
        tasks, self._tasks = self._tasks, {}
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        _, still_running = await asyncio.wait(tasks, timeout=STOP_SECONDS_MAX)
        for task in still_running:
            log.error("background_service_does_not_stop", service=tasks[task])

    async def _keep_running(self, service: BackgroundService) -> None:
        """Run a service, again and again if it dies."""
        loop = asyncio.get_running_loop()
        pause = RESTART_SECONDS
        while not self._is_stopping:
            began_at = loop.time()
            try:
                await service.run()
                log.error("background_service_ended", service=service.name)
            except Exception:
                log.exception("background_service_failed", service=service.name)
            if loop.time() - began_at > RESTART_SECONDS_MAX:
                pause = RESTART_SECONDS
            if not self._is_stopping:
                await asyncio.sleep(pause)
            pause = min(2 * pause, RESTART_SECONDS_MAX)
