"""Debian's Redis, ZooKeeper, etcd and PgBouncer on loopback.

The strategies `redis` and `zookeeper` need the first two, Patroni needs etcd, and PgBouncer is a
pooler between the service and PostgreSQL. The tests of a program that is not installed are
skipped; under CI they fail, because there every test must run.
"""

import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from db.session.address import connection_arguments

SECONDS_MAX = 60.0  # to start or stop: only a hang takes longer
ZOOKEEPER = Path("/usr/share/zookeeper/bin/zkServer.sh")


@dataclass
class Broker:
    """A server that can be killed and started again on the same port, with the same data."""

    command: list[str]
    port: int
    question: bytes
    answer: bytes
    """A part of its reply to the question when it is ready."""
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "JMXDISABLE": "true"},
            )
        give_up_at = time.monotonic() + SECONDS_MAX
        while not self._is_ready():
            if time.monotonic() > give_up_at or self.process.poll() is not None:
                raise AssertionError(f"{self.command[0]} did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it with SIGKILL, so that it closes no connection properly."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS_MAX)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it while the block runs: it neither answers nor closes a connection."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(self.question)
                return self.answer in connection.makefile("rb").read(4096)
        except OSError:
            return False


@contextmanager
def running_redis() -> Iterator[Broker]:
    """A Redis that keeps everything in memory."""
    program = shutil.which("redis-server")
    if program is None:
        missing("Redis is not installed (make services)")
    with _running(b"PING\r\nQUIT\r\n", b"+PONG") as (broker, directory):
        broker.command = [
            str(program), "--port", str(broker.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", str(directory),
        ]  # fmt: skip
        broker.start()
        yield broker


@contextmanager
def running_zookeeper() -> Iterator[Broker]:
    """A ZooKeeper of one node, which keeps its data while the block lasts."""
    if not ZOOKEEPER.exists() or shutil.which("java") is None:
        missing("ZooKeeper or Java is not installed (make services)")
    with _running(b"srvr", b"Mode: standalone") as (broker, directory):
        settings = Path(directory, "zoo.cfg")
        settings.write_text(
            f"tickTime=500\ndataDir={directory}/data\nclientPort={broker.port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n"
        )
        broker.command = [str(ZOOKEEPER), "start-foreground", str(settings)]
        broker.start()
        yield broker


@contextmanager
def running_etcd() -> Iterator[Broker]:
    """An etcd of one node, which holds the leader lock of Patroni's nodes."""
    program = shutil.which("etcd")
    if program is None:
        missing("etcd is not installed (make services)")
    with _running(b"GET /health HTTP/1.0\r\n\r\n", b'"health":"true"') as (broker, directory):
        clients, peers = (f"http://127.0.0.1:{port}" for port in (broker.port, free_port()))
        broker.command = [
            str(program), "--data-dir", str(directory / "etcd"), "--log-level", "warn",
            "--listen-client-urls", clients, "--advertise-client-urls", clients,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"default={peers}",
        ]  # fmt: skip
        broker.start()
        yield broker


NONSENSE = struct.pack("!ii", 8, 0)  # a protocol version that does not exist, to get an error


@contextmanager
def running_pgbouncer(database_url: str, **settings: str | float) -> Iterator[str]:
    """A PgBouncer before a database, with few sessions for many clients; yields its address.

    It accepts any client without a password; only PgBouncer knows the password of the database.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("PgBouncer is not installed (make services)")
    target = connection_arguments(database_url)
    with _running(NONSENSE, b"E") as (broker, directory):
        directory.chmod(0o755)  # PgBouncer refuses to run as root
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": broker.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 3,
            **({"user": "nobody"} if os.geteuid() == 0 else {}),
            **settings,
        }
        Path(directory, "pgbouncer.ini").write_text(
            f"[databases]\n* = host={target['host']} port={target['port']} user={target['user']}"
            f" password='{target['password']}'\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        broker.command = [str(program), str(Path(directory, "pgbouncer.ini"))]
        broker.start()
        yield f"postgresql://holdfast@127.0.0.1:{broker.port}/{target['database']}"


@contextmanager
def _running(question: bytes, answer: bytes) -> Iterator[tuple[Broker, Path]]:
    with tempfile.TemporaryDirectory(prefix="holdfast-broker-") as name:
        directory = Path(name)
        broker = Broker([], free_port(), question, answer, directory / "log")
        try:
            yield broker, directory
        finally:
            broker.kill()


def free_port() -> int:
    """A free port that the kernel gives to no outgoing connection while its server is down.

    The kernel gives out ports from 32768 on. Another process may still take this one first.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def missing(reason: str) -> None:
    """Skip the test; under CI fail it."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def redis_url(broker: Broker) -> str:
    """The broker's address for `HOLDFAST_REDIS_URL`."""
    return f"redis://127.0.0.1:{broker.port}/0"


def zookeeper_hosts(broker: Broker) -> str:
    """The broker's address for `HOLDFAST_ZOOKEEPER_HOSTS`."""
    return f"127.0.0.1:{broker.port}"
