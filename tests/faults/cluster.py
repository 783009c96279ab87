"""Two PostgreSQL nodes under Patroni, a primary and its synchronous standby, and an etcd.

The nodes are configured by docs/failover/patroni.yml, the file that operators copy.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

import asyncpg
import httpx

from tests.brokers import free_port, missing, running_etcd
from tests.faults.processes import family_of, is_running, kill_all

TEMPLATE = Path(__file__).parents[2] / "docs" / "failover" / "patroni.yml"
BINARIES = Path("/usr/lib/postgresql/15/bin")
PATRONI = Path(sys.executable).with_name("patroni")
PASSWORD = "for-tests-only"
ADDRESS = "127.0.0.1"
AS_POSTGRES = (
    "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
    "--inh-caps=+dac_override", "--ambient-caps=+dac_override",
)  # fmt: skip
"""PostgreSQL refuses to run as root; the permission is for a Python in root's home directory."""

SECONDS_MAX = 60.0
"""Bound for starting a node, copying the data and catching up, on a busy machine."""


class Node:
    """One Patroni with its PostgreSQL; both can be killed and started again on the same data."""

    def __init__(self, name: str, directory: Path, etcd_port: int) -> None:
        self.name, self.directory = name, directory
        self.port, self.api_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        settings = Template(TEMPLATE.read_text()).substitute(
            name=name, address=ADDRESS, port=self.port, api_port=self.api_port,
            directory=directory, etcd=f"{ADDRESS}:{etcd_port}", network=f"{ADDRESS}/32",
            binaries=BINARIES, password=PASSWORD,
        )  # fmt: skip
        directory.mkdir()
        (directory / "patroni.yml").write_text(settings)
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")

    def start(self) -> None:
        """Start the node and return; `Cluster.await_standby` waits until it has caught up."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*patroni(), self.directory / "patroni.yml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )

    @property
    def postgres(self) -> list[int]:
        """The processes of this node's PostgreSQL."""
        record = self.directory / "data" / "postmaster.pid"
        if not record.exists():
            return []
        return family_of(int(record.read_text().split()[0]))

    @property
    def processes(self) -> list[int]:
        """The processes of this node's Patroni and PostgreSQL."""
        return [] if self.process is None else [*family_of(self.process.pid), *self.postgres]

    def kill_postgres(self) -> None:
        kill_all(self.postgres)

    def kill(self) -> None:
        """Kill Patroni and PostgreSQL, as a power failure would."""
        if self.process is not None:
            kill_all(self.processes)
            self.process.wait()

    @property
    def is_alive(self) -> bool:
        return self.process is not None and is_running(self.process.pid)

    @property
    def url(self) -> str:
        """The address of this node's PostgreSQL, for the superuser."""
        return f"postgresql://postgres:{PASSWORD}@{ADDRESS}:{self.port}/postgres"


class Cluster:
    """Both nodes; `url` is the address for a service."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        hosts = ",".join(f"{ADDRESS}:{node.port}" for node in nodes)
        self.url = (
            f"postgresql://holdfast:{PASSWORD}@{hosts}/holdfast?target_session_attrs=read-write"
        )

    async def await_standby(self) -> None:
        """Return when one node leads and another is its synchronous standby."""
        async with asyncio.timeout(SECONDS_MAX):
            while {"leader", "sync_standby"} - {role for _, role in await self.roles()}:
                await asyncio.sleep(0.1)

    async def roles(self) -> list[tuple[str, str]]:
        """The name and the role of each running node, according to Patroni."""
        async with httpx.AsyncClient(timeout=2) as http:
            for node in self.nodes:
                try:
                    answer = await http.get(f"http://{ADDRESS}:{node.api_port}/cluster")
                except httpx.HTTPError:
                    continue
                return [
                    (member["name"], member["role"])
                    for member in answer.json().get("members", [])
                    if member["state"] in ("running", "streaming")
                ]
        return []

    async def primary(self) -> Node | None:
        """The node whose PostgreSQL accepts writes, according to PostgreSQL itself."""
        for node in self.nodes:
            try:
                connection = await asyncpg.connect(node.url, timeout=1)
                is_standby = await connection.fetchval("SELECT pg_is_in_recovery()")
                await connection.close()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
            if not is_standby:
                return node
        return None

    async def await_primary(self, *, other_than: Node) -> float:
        """Wait until another node is the primary; return the time that this took, in seconds."""
        start = time.monotonic()
        async with asyncio.timeout(SECONDS_MAX):
            while (found := await self.primary()) is None or found is other_than:
                await asyncio.sleep(0.02)
        return time.monotonic() - start

    async def create_database(self) -> None:
        primary = await self.primary()
        assert primary is not None
        connection = await asyncpg.connect(primary.url)
        await connection.execute(f"CREATE ROLE holdfast LOGIN PASSWORD '{PASSWORD}'")
        await connection.execute("CREATE DATABASE holdfast OWNER holdfast")
        await connection.close()


def patroni() -> list[str | Path]:
    return [*AS_POSTGRES, PATRONI] if os.geteuid() == 0 else [PATRONI]


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that is starting; `await_standby` waits until it has started."""
    if not PATRONI.exists() or not (BINARIES / "postgres").exists():
        missing("Patroni or Debian's PostgreSQL 15 is not installed")
    with ExitStack() as stack:
        etcd = stack.enter_context(running_etcd())
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-cluster-"))
        Path(name).chmod(0o755)
        nodes = [Node(name_, Path(name, name_), etcd.port) for name_ in ("first", "second")]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        yield Cluster(nodes)
