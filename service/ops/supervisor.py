"""The supervisor: starts the workers, replaces those that end, renews them and stops them."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import structlog

from db.embedded.server import EmbeddedError, EmbeddedPostgres
from service.engine.outages import Outage
from service.input.proxies import TrustedProxies
from service.ops.address_limit import AddressLimit, ConnectionTable, rows_for
from service.ops.certificate import ServedCertificate
from service.ops.metrics_directory import forget_process
from service.ops.worker import end_with_supervisor, run_worker
from service.settings import Settings

log = structlog.get_logger()

POLL_SECONDS = 0.1  # the longest time before the supervisor notices that a child has ended
START_SECONDS_MAX = 30.0  # for the first worker to serve
RESTART_SECONDS = 1.0  # between two starts of a worker: one that fails at once must not spin
GRACE_SECONDS = 5.0  # beyond the time to drain, before a worker is killed


@dataclass(slots=True)
class WorkerProcess:
    """A worker as its supervisor sees it."""

    pid: int
    started_at: float
    ready_pipe: int
    """The read end of a pipe; the worker writes a byte to it when it serves."""
    row: int
    """Its row in the table of connections."""
    is_serving: bool = False
    is_retiring: bool = False
    """A new worker is to replace it; it drains when the new one serves."""
    is_draining: bool = False

    @property
    def awaits_successor(self) -> bool:
        """True while it still serves because its replacement does not serve yet."""
        return self.is_retiring and not self.is_draining

    def read_ready_pipe(self) -> None:
        """Note whether the worker has reported that it serves."""
        if not self.is_serving:
            with suppress(BlockingIOError):
                self.is_serving = bool(os.read(self.ready_pipe, 1))

    def drain(self) -> None:
        """Tell it to stop accepting connections, to answer its requests, and to end."""
        self.is_draining = True
        os.kill(self.pid, signal.SIGTERM)


class Supervisor:
    """Keeps the workers and PostgreSQL running until a signal tells it to stop."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        postgres: EmbeddedPostgres | None,
        certificate: ServedCertificate | None,
    ) -> None:
        self.settings = settings
        self.listener = listener
        self.postgres = postgres
        self.certificate = certificate
        self.connections: ConnectionTable | None = None
        if settings.connections_per_address_max:
            self.connections = ConnectionTable(settings.workers)
        self.workers: dict[int, WorkerProcess] = {}
        self.may_start_at: list[float] = []
        """The earliest moments at which ended workers may be replaced."""
        self.outage = Outage("postgresql")
        self.stopping = False
        self.renewing = False

    def run(self, *, announce: Callable[[], None]) -> int:
        """Serve until a signal says stop; return 0, or 1 when no worker could start.

        `announce` is called when the first worker serves.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._renew)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # for workers, even one that just starts
        try:
            self._start_missing()
            if not self._await_first_worker():
                if self.stopping:
                    return 0
                print(
                    "holdfast: no worker could start; the log lines above say why", file=sys.stderr
                )
                return 1
            announce()
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
        """Do one round: reap ended workers, start missing ones, renew them if asked to."""
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
            row = self._free_row()
            if row is None:
                break  # until a worker that drains has ended
            self._start(row)

    def _free_row(self) -> int | None:
        """A row of the table of connections that no worker has; None if there is none."""
        taken = {worker.row for worker in self.workers.values()}
        rows = range(rows_for(self.settings.workers))
        return next((row for row in rows if row not in taken), None)

    def _address_limit(self, row: int) -> AddressLimit | None:
        """The limit on the connections of an address for a new worker, in the worker itself."""
        if self.connections is None:
            return None
        settings = self.settings
        proxies = TrustedProxies(settings.trusted_proxies)
        limit = settings.connections_per_address_max
        return AddressLimit(self.connections, row, limit, proxies)

    def _start(self, row: int) -> None:
        supervisor = os.getpid()
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            self._become_worker(supervisor, write_end, row)
        os.close(write_end)
        self.workers[pid] = WorkerProcess(pid, time.monotonic(), read_end, row)

    def _become_worker(self, supervisor: int, ready_pipe: int, row: int) -> None:
        """In the child: serve, and never return into the supervisor's code."""
        code = 1
        try:
            # The supervisor's handler only sets a flag, so the worker would ignore SIGTERM.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # only the supervisor handles it
            end_with_supervisor(supervisor)
            if self.postgres is not None:
                self.postgres.disown()
            for worker in self.workers.values():
                os.close(worker.ready_pipe)
            os.setpgid(0, 0)  # Ctrl-C reaches only the supervisor, which stops the workers in order
            tls = None if self.certificate is None else self.certificate.current.context
            addresses = self._address_limit(row)
            code = run_worker(self.settings, self.listener, ready_pipe, tls, addresses)
        except Exception:
            log.exception("worker_failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _begin_renewal(self) -> None:
        """Mark all workers for replacement; if a renewal is under way, wait until it is done.

        No worker is replaced if the certificate's files are broken: the log says why.
        """
        if self.renewing and not any(worker.awaits_successor for worker in self.workers.values()):
            self.renewing = False
            if self.certificate is not None and not self.certificate.renew():
                return
            for worker in self.workers.values():
                worker.is_retiring = True

    def _end_renewal(self) -> None:
        """Let the old workers drain as soon as all new ones serve."""
        for worker in self.workers.values():
            worker.read_ready_pipe()
        serving = sum(
            worker.is_serving and not worker.is_retiring for worker in self.workers.values()
        )
        if serving < self.settings.workers:
            return
        for worker in self.workers.values():
            if worker.awaits_successor:
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
            os.close(worker.ready_pipe)
            if self.connections is not None:
                self.connections.clear(worker.row)
            forget_process(pid)
            if worker.is_draining:
                continue
            log.warning("worker_died", pid=pid, code=os.waitstatus_to_exitcode(status))
            self.may_start_at.append(worker.started_at + RESTART_SECONDS)

    def _await_first_worker(self) -> bool:
        """Wait until a worker serves; False when none does or when told to stop."""
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < give_up_at and not self.stopping:
            for worker in self.workers.values():
                worker.read_ready_pipe()
                if worker.is_serving:
                    return True
            self._reap()
            if not self.workers:
                return False
            time.sleep(0.02)
        return False

    def _end_workers(self) -> None:
        """Make every worker unready, then drain it; kill those that do not end in time.

        While they are unready the workers still accept connections: each keeps the listening
        socket open until it drains.
        """
        for pid in self.workers:
            os.kill(pid, signal.SIGUSR1)
        time.sleep(self.settings.unready_seconds)  # until the load balancers have noticed
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
