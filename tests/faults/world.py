"""A running service with its own PostgreSQL, and the faults that a test can cause in it."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.brokers import free_port
from tests.faults.pauses import POINTS, arm, is_armed
from tests.faults.processes import family_of, frozen, is_postgres, is_stopped, kill_all
from tests.server import ADMIN_KEY, Server, running_server

WORKERS = 2
SECONDS_MAX = 20.0  # for a worker to reach a pause point; every order passes all of them


@dataclass
class World:
    """`holdfast serve` on one port and one data directory; it can be started many times."""

    directory: Path
    port: int
    chance: random.Random
    freeze_seconds: float = 6.0  # longer than the time limit of a transaction
    outage_seconds: float = 5.0
    server: Server | None = None
    _running: ExitStack | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {ADMIN_KEY}"}

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def database_url(self) -> str:
        return (self.data_dir / "database.url").read_text().strip()

    @property
    def supervisor(self) -> int:
        assert self.server is not None
        return self.server.process.pid

    @property
    def postgres(self) -> list[int]:
        """The processes of PostgreSQL, the postmaster first."""
        return [pid for pid in family_of(self.supervisor)[1:] if is_postgres(pid)]

    @property
    def workers(self) -> list[int]:
        return [pid for pid in family_of(self.supervisor)[1:] if not is_postgres(pid)]

    async def start(self) -> None:
        """Start the service; any of its earlier processes may have been killed."""
        self.directory.chmod(0o755)  # under root, PostgreSQL runs as another user
        stack = ExitStack()
        serving = running_server(
            None,
            workers=WORKERS,
            module="tests.faults.pauses",
            data_dir=self.data_dir,
            port=self.port,
        )
        self.server = await asyncio.to_thread(stack.enter_context, serving)
        self._running = stack

    async def stop(self) -> None:
        """End the service with SIGTERM, unless it is dead; it must exit with 0."""
        if self._running is not None:
            await asyncio.to_thread(self._running.close)
            self._running = None

    async def pause_worker(self, point: str) -> int:
        """Wait until a worker has stopped at that point."""
        arm(self.data_dir, point)
        async with asyncio.timeout(SECONDS_MAX):
            while is_armed(self.data_dir):
                await asyncio.sleep(0.005)
            while not (stopped := [pid for pid in self.workers if is_stopped(pid)]):
                await asyncio.sleep(0.005)
        return stopped[0]

    async def wait(self, seconds_max: float = 0.3) -> None:
        """Wait for a random time."""
        await asyncio.sleep(self.chance.uniform(0, seconds_max))


@asynccontextmanager
async def running_world(directory: Path, seed: int, **more: float) -> AsyncIterator[World]:
    world = World(directory, free_port(), random.Random(seed), **more)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


async def kill_worker(world: World) -> None:
    await world.wait()
    kill_all([world.chance.choice(world.workers)])


def kill_worker_at(point: str) -> Callable[[World], Awaitable[None]]:
    async def kill(world: World) -> None:
        kill_all([await world.pause_worker(point)])

    return kill


async def kill_draining_worker(world: World) -> None:
    pausing = asyncio.create_task(world.pause_worker("draining"))
    await asyncio.sleep(0.05)
    os.kill(world.supervisor, signal.SIGHUP)
    kill_all([await pausing])


async def kill_supervisor(world: World) -> None:
    """The supervisor is killed: its workers drain and its PostgreSQL shuts down by themselves."""
    await world.wait()
    kill_all([world.supervisor])
    await world.stop()
    await world.start()


async def kill_supervisor_beside_a_starting_worker(world: World) -> None:
    """The worker must end, since it holds the port that the next supervisor needs."""
    pausing = asyncio.create_task(world.pause_worker("worker starting"))
    await asyncio.sleep(0.05)
    os.kill(world.supervisor, signal.SIGHUP)
    worker = await pausing
    kill_all([world.supervisor])
    os.kill(worker, signal.SIGCONT)
    await world.stop()
    await world.start()


async def kill_everything(world: World) -> None:
    await world.wait()
    kill_all(family_of(world.supervisor))
    await world.stop()
    await world.start()


async def kill_everything_at_commit(world: World) -> None:
    await world.pause_worker(world.chance.choice(["written", "commit sent", "committed"]))
    await kill_everything(world)


async def kill_postmaster(world: World) -> None:
    await world.wait()
    kill_all(world.postgres[:1])


async def kill_postgresql(world: World) -> None:
    await world.wait()
    kill_all(world.postgres)


async def kill_postgresql_at_commit(world: World) -> None:
    """PostgreSQL is killed while a worker commits; the worker can read the outcome only later."""
    pid = await world.pause_worker(world.chance.choice(["written", "commit sent"]))
    kill_all(world.postgres)
    os.kill(pid, signal.SIGCONT)


async def kill_backend(world: World) -> None:
    """One backend is killed; the postmaster ends all the others and recovers."""
    await world.wait()
    kill_all([world.chance.choice(world.postgres[1:])])


async def terminate_backends(world: World) -> None:
    await world.wait()
    connection = await asyncpg.connect(world.database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast'"
    )
    await connection.close()


async def freeze_postgresql(world: World) -> None:
    await world.wait()
    with frozen(world.postgres):
        await asyncio.sleep(world.freeze_seconds)


async def freeze_worker_at_commit(world: World) -> None:
    """A frozen worker continues after PostgreSQL has ended its transaction."""
    pid = await world.pause_worker(world.chance.choice(["planned", "written", "commit sent"]))
    await asyncio.sleep(world.chance.uniform(0, 6))
    os.kill(pid, signal.SIGCONT)


async def outage(world: World) -> None:
    """PostgreSQL is killed and can't start again for a while."""
    with frozen([world.supervisor]):
        kill_all(world.postgres)
        await asyncio.sleep(world.outage_seconds)


async def renew_workers(world: World) -> None:
    await world.wait()
    os.kill(world.supervisor, signal.SIGHUP)
    await world.wait()


async def restart(world: World) -> None:
    """Stop the service properly, under load, and start it again."""
    await world.wait()
    await world.stop()
    await world.start()


SERVICE_KILLS: dict[str, Callable[[World], Awaitable[None]]] = {
    "kill a worker at a random moment": kill_worker,
    **{f"kill a worker: {point}": kill_worker_at(point) for point in POINTS[:-2]},
    "kill a worker: draining": kill_draining_worker,
    "kill the supervisor": kill_supervisor,
    "kill the supervisor beside a starting worker": kill_supervisor_beside_a_starting_worker,
}
POSTGRESQL_KILLS: dict[str, Callable[[World], Awaitable[None]]] = {
    "kill the postmaster": kill_postmaster,
    "kill all of PostgreSQL": kill_postgresql,
    "kill all of PostgreSQL at a COMMIT": kill_postgresql_at_commit,
    "kill a backend": kill_backend,
    "kill everything": kill_everything,
    "kill everything at a COMMIT": kill_everything_at_commit,
}
OTHER: dict[str, Callable[[World], Awaitable[None]]] = {
    "terminate all backends": terminate_backends,
    "freeze PostgreSQL": freeze_postgresql,
    "freeze a worker at its COMMIT": freeze_worker_at_commit,
    "keep PostgreSQL down": outage,
    "renew the workers": renew_workers,
    "restart": restart,
}
FAULTS = SERVICE_KILLS | POSTGRESQL_KILLS | OTHER
