"""A PostgreSQL for each process that runs tests, and the migrated database that tests copy.

Making a cluster and migrating a database takes seconds. The first process does it, once, in a
directory that all processes of a run share; every process then starts a server on a copy.
"""

import asyncio
import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from db.embedded.roles import Addresses, Role, derive_password
from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.session.database import Database
from tests.roles import as_role, as_superuser, known, owner_clause

TEMPLATE = "holdfast_template"
PREFIX = "holdfast-tests-"
FAST = {
    "fsync": "off",  # a power cut costs a test run, no data
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",  # several servers run at once, and each database is small
    "max_wal_size": "256MB",
}
MEMORY = Path("/dev/shm")  # there a database is made in a third of the time
MEMORY_BYTES_MIN = 2 << 30  # of all processes together; containers often have much less


@contextmanager
def running_postgres(shared: Path, own: Path) -> Iterator[str]:
    """A server on a copy of the cluster in `shared`, in memory or in `own`; yields its address.

    The address is for the role of people and tools, which may create databases.
    """
    with locked(shared / "pristine.lock"):
        pristine = shared / "pristine"
        if not pristine.exists():
            unfinished = shared / "unfinished"
            with EmbeddedPostgres(unfinished, settings=FAST) as server, known(server.addresses):
                asyncio.run(make_template(server.url))
                asyncio.run(hasten_logins(server.addresses))
            unfinished.rename(pristine)
    with directory_in_memory(otherwise=own) as directory:
        # As root, the files belong to PostgreSQL's own user; `cp` keeps the owner.
        subprocess.run(["cp", "--archive", pristine, directory / "postgres"], check=True)
        with (
            EmbeddedPostgres(directory / "postgres", settings=FAST) as server,
            known(server.addresses),
        ):
            yield server.url


@contextmanager
def directory_in_memory(otherwise: Path) -> Iterator[Path]:
    """A directory in memory that is removed at the end; another one where memory is short."""
    for left in MEMORY.glob(f"{PREFIX}*"):  # by a process that was killed
        if not Path("/proc", left.name.split("-")[-2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    if not MEMORY.exists() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        yield otherwise
        return
    with TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY) as name:
        yield Path(name)


async def hasten_logins(addresses: Addresses) -> None:
    """Hash the roles' passwords once instead of 4,096 times: each test opens several sessions."""
    connection = await asyncpg.connect(addresses.superuser)
    await connection.execute(  # PostgreSQL 15 has no such setting
        "SELECT set_config(name, '1', false) FROM pg_settings WHERE name = 'scram_iterations'"
    )
    for role in Role:
        password = derive_password(addresses.secret, role)
        await connection.execute(f"ALTER ROLE {role} PASSWORD '{password}'")
    await connection.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file releases it
        yield


async def make_template(url: str) -> None:
    """Create the database that tests copy: the migrating role migrates it for the serving role."""
    connection = await asyncpg.connect(as_superuser(url))
    await connection.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}")
    await connection.execute(f"CREATE DATABASE {TEMPLATE} {owner_clause(url)}")
    await connection.close()
    template = named(url, TEMPLATE)
    database = Database(as_role(template, Role.SERVING), pool_size=1)
    await upgrade(database, as_role(template, Role.MIGRATING))
    await database.close()


def named(url: str, name: str) -> str:
    """The address of another database on the same server."""
    return url.rsplit("/", 1)[0] + f"/{name}"


@asynccontextmanager
async def fresh_database(postgres_url: str) -> AsyncIterator[str]:
    """The serving role's address of a migrated, empty database, which is dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(as_superuser(postgres_url))
    try:
        owner = owner_clause(postgres_url)
        strategy = " STRATEGY file_copy" if owner else ""  # in memory cheaper than with WAL
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} {owner}{strategy}")
        yield as_role(named(postgres_url, name), Role.SERVING)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
