"""The listening socket that all workers of a service share."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

BACKLOG = 2048
ACCEPTED_AT_ONCE = 16  # waiting connections that one turn of a worker's event loop accepts
PORT_SECONDS_MAX = 3.0  # to wait for a port that another process may be about to release


@contextmanager
def open_listener(host: str, port: int) -> Iterator[socket.socket]:
    """Open the listening socket and close it when the block ends.

    Each worker inherits it and so keeps it open for itself. Raises `OSError` that names the
    address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, host, port)
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()


def accepting(listener: socket.socket) -> list[socket.socket]:
    """Return the sockets on which an event loop accepts several connections in one turn.

    In one turn libuv accepts one connection from each socket that it listens on. Under overload a
    turn takes milliseconds, so with a single socket new clients would wait for seconds
    (docs/decisions.md, 19). All of these sockets must be non-blocking. They share one file
    description with those of the other workers, and so they share that flag: one blocking socket
    would make every worker wait in `accept`.
    """
    if listener.getblocking():
        raise ValueError("the listener is blocking")
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


def _bind(listener: socket.socket, host: str, port: int) -> None:
    """Bind the socket; wait briefly while workers of a killed service still hold the port."""
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
