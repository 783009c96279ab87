"""Open-loop load: requests are due at a fixed average rate and never wait for answers.

Latency counts from the moment at which a request was due. So a service that stalls is charged for
the requests that could not be sent in the meantime (Tene's "coordinated omission"). Arrivals are a
Poisson process. The client is a separate process and speaks HTTP over plain sockets, to leave the
CPU to the measured service.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from bench.load import Load, Measured

CONNECTIONS_MAX = 512  # more than are ever needed at once below saturation
ANSWER_SECONDS_MAX = 15.0
HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def measure(
    url: str, *, key: str, prefix: str, sent: Load, rate: float, seconds: float
) -> Measured:
    """Send requests with new seqs at a fixed average rate; return the figures."""
    command = [sys.executable, "-m", "bench.arrivals", "--url", url, "--prefix", prefix]
    command += ["--rate", f"{rate}", "--seconds", f"{seconds}"]
    command += ["--sku", sent.sku, "--skus", f"{sent.skus}"]
    printed = subprocess.run(  # noqa: S603 - our own command line
        command, input=key, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + 60
    ).stdout
    return Measured(**json.loads(printed))


@dataclass
class Arrivals:
    """The requests that wait for a connection, and the results of the others."""

    head: bytes
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    idle: list["ClientConnection"] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """The time from due to answered of each request that got a 2xx."""
    refused: int = 0
    busy: int = 0
    """Connections that wait for an answer."""

    def send(self, due: float, body: bytes) -> None:
        """Send a request now, or as soon as a connection is free."""
        request = b"%scontent-length: %d\r\n\r\n%s" % (self.head, len(body), body)
        if self.idle:
            self.busy += 1
            self.idle.pop().send(due, request)
        else:
            self.waiting.append((due, request))

    def answered(self, connection: "ClientConnection", status: int) -> None:
        """Record an answer and send the next waiting request."""
        if 200 <= status < 300:
            self.seconds.append(time.perf_counter() - connection.due)
        else:
            self.refused += 1
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.busy -= 1
            self.idle.append(connection)

    def lost(self, connection: "ClientConnection") -> None:
        """Continue without a connection; its request has failed."""
        if connection in self.idle:
            self.idle.remove(connection)
        else:
            self.busy -= 1


class ClientConnection(asyncio.Protocol):
    """One connection that sends one request at a time."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.due = 0.0
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport. (uvloop's transports are not subclasses of asyncio's.)"""
        self._transport = transport

    def send(self, due: float, request: bytes) -> None:
        """Send a request that was due at that moment."""
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; report it when it is complete."""
        self._received += data
        head, end, body = self._received.partition(HEAD_END)
        length = LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self._received = b""
            self.arrivals.answered(self, int(head[9:12]))

    def connection_lost(self, _error: Exception | None) -> None:
        """Report that the connection is lost."""
        self.arrivals.lost(self)


async def run(options: argparse.Namespace, key: str) -> Measured:
    """Send the requests and wait for their answers."""
    host, port = options.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/reservations HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {key}\r\n"
        "content-type: application/json\r\n"
    )
    arrivals = Arrivals(head.encode())
    loop = asyncio.get_running_loop()
    for _ in range(min(CONNECTIONS_MAX, int(options.rate))):
        _, connection = await loop.create_connection(
            lambda: ClientConnection(arrivals), host, int(port)
        )
        arrivals.idle.append(connection)
    sent = await _arrive(arrivals, options)
    give_up_at = time.perf_counter() + ANSWER_SECONDS_MAX
    while arrivals.busy and time.perf_counter() < give_up_at:  # noqa: ASYNC110 - for many connections
        await asyncio.sleep(0.01)
    return _measured(arrivals, sent, options.seconds)


async def _arrive(arrivals: Arrivals, options: argparse.Namespace) -> int:
    """Send each request when it is due; return their number."""
    chance = random.Random(options.prefix)
    due = start = time.perf_counter()
    number = 0
    while due < start + options.seconds:
        while due <= time.perf_counter():
            number += 1
            sku = f"{options.sku}{chance.randint(1, options.skus)}"
            body = f'{{"seq":"{options.prefix}-{number}","lines":[{{"sku":"{sku}","quantity":1}}]}}'
            arrivals.send(due, body.encode())
            due += chance.expovariate(options.rate)
        await asyncio.sleep(max(0.0, min(0.001, due - time.perf_counter())))
    return number


def _measured(arrivals: Arrivals, sent: int, seconds: float) -> Measured:
    quickest_first = sorted(arrivals.seconds)

    def at(share: float) -> float:
        return 1000 * quickest_first[int(share * (len(quickest_first) - 1))] if sent else 0.0

    return Measured(
        requests_per_second=len(quickest_first) / seconds,
        p50_milliseconds=at(0.5),
        p99_milliseconds=at(0.99),
        answered=len(quickest_first) + arrivals.refused,
        refused=arrivals.refused,
        failed=sent - len(quickest_first) - arrivals.refused,
    )


def main() -> None:
    """Measure once and print the figures as JSON; read the key from standard input."""
    parser = argparse.ArgumentParser(prog="bench.arrivals", description=__doc__)
    for name in ("url", "prefix", "sku"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--skus", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    measured = uvloop.run(run(options, sys.stdin.read().strip()))
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
