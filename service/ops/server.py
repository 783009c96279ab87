"""The running service: a supervisor, its workers and, unless one is named, its PostgreSQL.

The supervisor never serves. It starts PostgreSQL, migrates, opens the socket, forks the workers and
then watches all of them; whichever dies is started again. All that it starts dies with it.
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn

from db.embedded.server import EmbeddedError, EmbeddedPostgres
from db.migrate import upgrade
from db.session.checks import concerns, granted_connections
from db.session.database import Database
from service.engine.episodes import Episode
from service.http.app import Application, create_app
from service.ops import bootstrap as admin
from service.ops.connections import Connections, connections_max
from service.ops.metrics_directory import forget_process
from service.settings import Settings

log = structlog.get_logger()

POLL_SECONDS = 0.1  # how soon a dead child is noticed
START_SECONDS_MAX = 30.0  # for the first worker to answer
RESTART_SECONDS = 1.0  # between two starts of the same worker, so that a broken one does not spin
GRACE_SECONDS = 5.0  # on top of the time to drain, before a worker is killed
PORT_SECONDS_MAX = 3.0  # for a port that somebody may be about to leave
BACKLOG = 2048
ACCEPTED_AT_ONCE = 16  # connections, of all that wait, in one turn of a worker's event loop
GC_OBJECTS = 10_000  # new ones between collections: requests under way are no garbage
PR_SET_PDEATHSIG = 1


def serve(settings: Settings, *, demo: bool = False) -> int:
    """Bring everything up, serve until SIGTERM or SIGINT, and return the exit code."""
    configure_logging(settings.log_format)
    signal.signal(signal.SIGTERM, _leave)  # also while starting, also as process 1
    with contextlib.ExitStack() as stack:
        postgres = None
        if settings.database_url is None:
            postgres = stack.enter_context(EmbeddedPostgres(settings.data_dir, settings.pg_bin))
            settings = settings.at(postgres.addresses)
        has_demo, pool_size = asyncio.run(_prepare(settings, demo=demo and postgres is not None))
        listener = stack.enter_context(_listen(settings))
        port = listener.getsockname()[1]
        settings = settings.model_copy(update={"port": port, "pool_size": pool_size})
        return Supervisor(settings, listener, postgres).run(has_demo=has_demo)


def configure_logging(log_format: str) -> None:
    """Write log lines to stderr: `console` for people, `json` for collectors."""
    is_json = log_format == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if is_json else structlog.dev.set_exc_info,
            structlog.processors.JSONRenderer()
            if is_json
            else structlog.dev.ConsoleRenderer(
                exception_formatter=structlog.dev.plain_traceback  # no locals: they may be secret
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


async def _prepare(settings: Settings, *, demo: bool) -> tuple[bool, int]:
    """Migrate, make sure of an admin key, load the demo, and look at the database.

    Returns whether the demo's stock is there, and how many connections each worker may have.
    """
    database = Database(str(settings.database_url), pool_size=3)
    try:
        await upgrade(database, settings.migrate_database_url)
        for concern in await concerns(database):
            log.warning("database_concern", concern=concern)
        pool_size = _fair_share(settings, await granted_connections(database))
        await admin.ensure_first_key(database, settings)
        return demo and await admin.load_demo(database), pool_size
    finally:
        await database.close()


def _fair_share(settings: Settings, granted: int | None) -> int:
    """Return the connections for each worker, so that none takes what another can't do without.

    One is left for commands like `holdfast key create`.
    """
    if granted is None or granted > settings.pool_size * settings.workers:
        return settings.pool_size
    share = max(1, (granted - 1) // settings.workers)
    log.warning(
        "few_connections",
        concern=f"The database's role may have {granted} connections, and {settings.workers}"
        f" workers would ask for {settings.pool_size} each: each gets {share}."
        " Raise the role's CONNECTION LIMIT or the server's max_connections.",
    )
    return share


@dataclass(slots=True)
class WorkerProcess:
    """A worker, as its supervisor knows it."""

    pid: int
    started_at: float
    news: int
    """The end of a pipe on which the worker says that it serves."""
    is_serving: bool = False
    is_retiring: bool = False
    """Another one takes its place, and it drains as soon as that one serves."""
    is_draining: bool = False

    @property
    def is_waiting(self) -> bool:
        """True while it serves until another one does so in its place."""
        return self.is_retiring and not self.is_draining

    def look(self) -> None:
        """Take note of what the worker has said."""
        if not self.is_serving:
            with contextlib.suppress(BlockingIOError):
                self.is_serving = bool(os.read(self.news, 1))

    def drain(self) -> None:
        """Have it stop accepting, answer what it has, and end."""
        self.is_draining = True
        os.kill(self.pid, signal.SIGTERM)


class Supervisor:
    """Keeps the workers and PostgreSQL running until it is told to stop."""

    def __init__(
        self, settings: Settings, listener: socket.socket, postgres: EmbeddedPostgres | None
    ) -> None:
        self.settings = settings
        self.listener = listener
        self.postgres = postgres
        self.workers: dict[int, WorkerProcess] = {}
        self.may_start_at: list[float] = []
        """When workers may be started in place of those that died."""
        self.outage = Episode("postgresql")
        self.stopping = False
        self.renewing = False

    def run(self, *, has_demo: bool) -> int:
        """Serve until a signal says stop; return 0, or 1 when no worker ever came up."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._renew)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # for workers; a new one must survive it
        try:
            self._start_missing()
            if not self._await_first_answer():
                if self.stopping:
                    return 0
                print("holdfast: no worker came up; the log lines above say why", file=sys.stderr)
                return 1
            announce(self.settings, has_demo=has_demo)
            while not self.stopping:
                self._watch()
                time.sleep(POLL_SECONDS)
            return 0
        finally:
            self._end_workers()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _renew(self, _signal: int, _frame: FrameType | None) -> None:
        self.renewing = True

    def _watch(self) -> None:
        """One round: bury the dead, start what is missing, renew the workers if asked to."""
        self._reap()
        self._begin_renewal()
        self._start_missing()
        self._end_renewal()
        self._keep_postgres()

    def _start_missing(self) -> None:
        now = time.monotonic()
        self.may_start_at = [moment for moment in self.may_start_at if moment > now]
        wanted = self.settings.workers - len(self.may_start_at)
        while sum(not worker.is_retiring for worker in self.workers.values()) < wanted:
            self._start()

    def _start(self) -> None:
        supervisor = os.getpid()
        news, tells = os.pipe()
        os.set_blocking(news, False)
        pid = os.fork()
        if pid == 0:
            os.close(news)
            self._become_worker(supervisor, tells)
        os.close(tells)
        self.workers[pid] = WorkerProcess(pid, time.monotonic(), news)

    def _become_worker(self, supervisor: int, tells: int) -> None:
        """In the child: serve, and never return into the supervisor's code."""
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ours only notes it: we would live on
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the supervisor
            _die_with(supervisor)
            if self.postgres is not None:
                self.postgres.disown()
            for worker in self.workers.values():
                os.close(worker.news)
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor, which then stops us in order
            code = run_worker(self.settings, self.listener, tells)
        except Exception:
            log.exception("worker_failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _begin_renewal(self) -> None:
        """Have all workers replaced, unless that is under way: then when it is done."""
        if self.renewing and not any(worker.is_waiting for worker in self.workers.values()):
            self.renewing = False
            for worker in self.workers.values():
                worker.is_retiring = True

    def _end_renewal(self) -> None:
        """Have the old workers drain as soon as the new ones serve in their place."""
        for worker in self.workers.values():
            worker.look()
        serving = sum(
            worker.is_serving and not worker.is_retiring for worker in self.workers.values()
        )
        if serving < self.settings.workers:
            return
        for worker in self.workers.values():
            if worker.is_waiting:
                worker.drain()

    def _keep_postgres(self) -> None:
        if self.postgres is None:
            return
        try:
            if self.postgres.ensure_running():
                self.outage.end()
            else:
                self.outage.begin("it has died and is started again")
        except EmbeddedError as error:
            self.outage.begin(error)

    def _reap(self) -> None:
        for pid, worker in list(self.workers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended == 0:
                continue
            del self.workers[pid]
            os.close(worker.news)
            forget_process(pid)
            if worker.is_draining:
                continue
            log.warning("worker_died", pid=pid, code=os.waitstatus_to_exitcode(status))
            self.may_start_at.append(worker.started_at + RESTART_SECONDS)

    def _await_first_answer(self) -> bool:
        """Wait until a worker answers; False when none does or when told to stop."""
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < give_up_at and not self.stopping:
            if _answers(self.settings):
                return True
            self._reap()
            if not self.workers:
                return False
            time.sleep(0.02)
        return False

    def _end_workers(self) -> None:
        """Have every worker go unready, then drain; end those that do not."""
        for pid in self.workers:
            os.kill(pid, signal.SIGUSR1)
        time.sleep(self.settings.unready_seconds)  # until the balancers in front have noticed
        self.listener.close()
        for worker in self.workers.values():
            worker.drain()
        give_up_at = time.monotonic() + self.settings.drain_seconds + GRACE_SECONDS
        while self.workers and time.monotonic() < give_up_at:
            for pid in list(self.workers):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self.workers[pid]
            time.sleep(0.02)
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.workers.clear()


class _Worker(uvicorn.Server):
    """Uvicorn that looks after its connections, and says when it serves."""

    def __init__(
        self, config: uvicorn.Config, app: Application, connections: Connections, tells: int
    ) -> None:
        super().__init__(config)
        self.app = app
        self.connections = connections
        self.tells = tells

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; have the garbage collector leave alone what is there to stay, and come seldom."""
        await super().startup(sockets)
        self.connections.watch(self.server_state.connections)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_OBJECTS)
        os.write(self.tells, b"1")
        os.close(self.tells)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer what is owed within the grace time, then end."""
        self.connections.drain()
        worker = self.app.state.get("worker")
        if worker is not None:
            worker.imports.is_ending = True
            grace = worker.settings.drain_seconds
            asyncio.get_running_loop().call_later(grace, worker.coalescer.give_up)
        await super().shutdown(sockets)

    def go_unready(self, _signal: int, _frame: FrameType | None) -> None:
        """Turn /health/ready off and go on serving."""
        worker = self.app.state.get("worker")
        if worker is not None:
            worker.draining = True


def run_worker(settings: Settings, listener: socket.socket, tells: int) -> int:
    """Serve on a listening socket until SIGTERM; return the exit code.

    A byte is written to the descriptor `tells` when requests are answered.
    """
    app = create_app(settings)
    connections = Connections(connections_max(settings.pool_size))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast("Any", connections.make),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who is calling is told by the key, never by an address
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(settings.drain_seconds + 1),
    )
    server = _Worker(config, app, connections, tells)
    signal.signal(signal.SIGUSR1, server.go_unready)
    server.run(sockets=accepting(listener))
    return 0 if server.started else 1


def accepting(listener: socket.socket) -> list[socket.socket]:
    """Return what an event loop should listen on to accept several connections in one turn.

    libuv accepts one from each socket it listens on, and in a flood a turn takes milliseconds: new
    clients would wait for seconds (docs/decisions.md, 19). The listener must not be blocking, and
    neither is any of these: whether it is belongs to the one file description that all workers
    share, so that a blocking handle in one would have the others wait in `accept`.
    """
    if listener.getblocking():
        raise ValueError("the listener is blocking")
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


def announce(settings: Settings, *, has_demo: bool) -> None:
    """Say on stdout where everything is."""
    base = base_url(settings)
    key = settings.data_dir / admin.KEY_FILE
    print(f"Holdfast listens on {base}")
    print(f"Operator's page     {base}/")
    print(f"OpenAPI page        {base}/schema")
    print(f"Admin key in        {key}")
    if has_demo:
        authorization = f'-H "Authorization: Bearer $(cat {key})"'
        body = '{"seq": "demo-1", "lines": [{"sku": "85123A", "quantity": 2}], "hold_seconds": 900}'
        print("\nTry it on the demo catalogue:\n")
        print(f"curl -s {base}/v1/stock/85123A/main {authorization}")
        print(
            f"curl -s {base}/v1/reservations {authorization}"
            f" -H 'Content-Type: application/json' -d '{body}'"
        )
        print(f"curl -s {base}/v1/audit {authorization}")
    sys.stdout.flush()


def base_url(settings: Settings) -> str:
    """Return the service's address, as reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _answers(settings: Settings) -> bool:
    import httpx  # noqa: PLC0415 - half of the start-up time, needed once

    try:
        return (
            httpx.get(f"{base_url(settings)}/health/live", timeout=1, trust_env=False).status_code
            == 200
        )
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    """Open the socket that all workers accept from. Raises `OSError` naming the address."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, settings.host, settings.port)
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()


def _bind(listener: socket.socket, host: str, port: int) -> None:
    """Bind; wait a little for the workers of a killed service, which are on their way out."""
    give_up_at = time.monotonic() + PORT_SECONDS_MAX
    while True:
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < give_up_at:
                time.sleep(0.05)
                continue
            raise OSError(
                error.errno,
                f"can't listen on {host}:{port} ({error.strerror});"
                " choose another --port or --host",
            ) from error
        return


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent is gone, however it went.

    The death that counts is that of the thread which forked: here always the main thread. The
    parent's id must be from before the fork: it may be gone by the first line of its child.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before the kernel was asked
        os._exit(1)
