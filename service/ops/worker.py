"""A worker: the process that accepts connections and answers requests."""

import asyncio
import ctypes
import os
import signal
import socket
import ssl
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from service.http.app import Application, create_app
from service.ops.address_limit import AddressLimit
from service.ops.garbage_collection import relax_garbage_collection
from service.ops.listener import BACKLOG, accepting
from service.ops.open_connections import OpenConnections, connections_max
from service.ops.protocol import BoundedProtocol
from service.ops.tls import HSTS, TlsConnection
from service.settings import Settings

PR_SET_PDEATHSIG = 1


def run_worker(
    settings: Settings,
    listener: socket.socket,
    ready_pipe: int,
    tls: ssl.SSLContext | None,
    addresses: AddressLimit | None,
) -> int:
    """Serve on a listening socket until SIGTERM; return the exit code.

    With a context it serves TLS only. When the worker can answer requests, it writes a byte to the
    descriptor `ready_pipe`.
    """
    app = create_app(settings)
    connections = OpenConnections(connections_max(settings.pool_size), addresses)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast("Any", _protocol(connections, tls)),
        headers=[] if tls is None else [HSTS],
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the key identifies a caller, never an address
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(settings.drain_seconds + 1),
    )
    server = _WorkerServer(config, app, connections, ready_pipe)
    signal.signal(signal.SIGUSR1, server.go_unready)
    server.run(sockets=accepting(listener))
    return 0 if server.started else 1


def _protocol(connections: OpenConnections, tls: ssl.SSLContext | None) -> Callable[..., Any]:
    """Return the factory of each connection's protocol."""
    if tls is None:
        return partial(BoundedProtocol, connections)
    return partial(TlsConnection, tls, connections)


class _WorkerServer(uvicorn.Server):
    """Uvicorn that watches its connections and tells the supervisor when it serves."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: Application,
        connections: OpenConnections,
        ready_pipe: int,
    ) -> None:
        super().__init__(config)
        self.app = app
        self.connections = connections
        self.ready_pipe = ready_pipe

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, then tell the supervisor."""
        await super().startup(sockets)
        self.connections.watch(self.server_state.connections)
        relax_garbage_collection()
        os.write(self.ready_pipe, b"1")
        os.close(self.ready_pipe)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, answer all requests within the grace time, then end."""
        self.connections.drain()
        worker = self.app.worker
        if worker is not None:
            worker.imports.is_ending = True
            grace = worker.settings.drain_seconds
            asyncio.get_running_loop().call_later(grace, worker.coalescer.give_up)
        await super().shutdown(sockets)

    def go_unready(self, _signal: int, _frame: FrameType | None) -> None:
        """Let /health/ready answer 503 from now on and continue to serve."""
        worker = self.app.worker
        if worker is not None:
            worker.draining = True


def end_with_supervisor(supervisor: int) -> None:
    """Have the kernel send this process SIGTERM when its supervisor ends, for whatever reason.

    The kernel watches the thread that forked this process: here that is always the main thread.
    The supervisor's process id must be read before the fork, because the supervisor may end before
    the first line of its child runs.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor:  # it ended before the kernel was asked
        os._exit(1)
