"""The stand: runs all services side by side on one PostgreSQL during the measurements."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cases import (
    BARE,
    BARE_WHOLE,
    CAREFUL,
    EMPTY,
    FOUR_WORKERS,
    GROWN,
    GUARDED,
    HOLDFAST,
    LIMITED,
    LIMITED_TWO,
    LUA,
    POOLED,
    TEXTBOOK,
    TWO_WORKERS,
)
from bench.load import SKUS_MAX
from db.embedded.roles import DATABASE, Addresses, Role
from db.embedded.server import find_addresses

PORTS = {
    HOLDFAST: 8101,
    TWO_WORKERS: 8102,
    FOUR_WORKERS: 8104,
    BARE: 8111,
    BARE_WHOLE: 8110,
    TEXTBOOK: 8112,
    GUARDED: 8113,
    CAREFUL: 8114,
    LUA: 8115,
    EMPTY: 8121,
    GROWN: 8122,
    POOLED: 8123,
}
REDIS_PORT = 8116
MODULES = {BARE: "bare", TEXTBOOK: "textbook", GUARDED: "guarded", CAREFUL: "careful", LUA: "lua"}
START_SECONDS_MAX = 120


@dataclass
class Stand:
    """The running services: their addresses, their common key and PostgreSQL's addresses."""

    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    addresses: Addresses | None = None
    """The addresses of the private PostgreSQL, once it runs."""
    database: str = DATABASE
    urls: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """The keys of services that are called with another key."""
    process_ids: dict[str, int] = field(default_factory=dict)
    """The supervisor of each `holdfast serve`."""

    def key_for(self, name: str) -> str:
        """Return the key with which a service is called."""
        return self.keys.get(name, self.key)

    def database_url(self, role: Role = Role.SERVING) -> str:
        """Return the database's address for a role."""
        assert self.addresses is not None, "no service has started its PostgreSQL yet"
        return self.addresses.address_of(role, self.database)


@contextlib.contextmanager
def running(directory: Path, names: set[str]) -> Iterator[Stand]:
    """Start the named services and create stock; `Redis + Lua` runs only if Redis is installed."""
    stand = Stand()
    with contextlib.ExitStack() as stack:
        serve(stack, stand, HOLDFAST, directory)
        seed(stand, SKUS_MAX)
        for name, workers in ((TWO_WORKERS, 2), (FOUR_WORKERS, 4)):
            if name in names:
                serve(stack, stand, name, directory / str(workers), workers)
        for name, served in ((LIMITED, HOLDFAST), (LIMITED_TWO, TWO_WORKERS)):
            if name in names:
                limit(stand, name, stand.urls[served])
        if LUA in names and shutil.which("redis-server"):
            stack.enter_context(_process(_redis(directory)))
        for name in MODULES:
            if name in names and (name != LUA or shutil.which("redis-server")):
                stack.enter_context(_process(_uvicorn(name), **_environment(stand)))
                _await(stand, name)
        if BARE_WHOLE in names:
            command = [sys.executable, "-m", "bench.services.bare_whole", f"{PORTS[BARE_WHOLE]}"]
            stack.enter_context(_process(command))
            _await(stand, BARE_WHOLE)
        yield stand


def serve(
    stack: contextlib.ExitStack,
    stand: Stand,
    name: str,
    directory: Path,
    workers: int = 1,
    database_url: str | None = None,
) -> None:
    """Start `holdfast serve` on the stand's database; the first one starts its PostgreSQL.

    `database_url` is another way to the same database, such as through a pooler.
    """
    command = [sys.executable, "-m", "service", "serve", "--port", str(PORTS[name])]
    command += ["--data-dir", str(directory), "--workers", str(workers)]
    # One key plays thousands of clients, so it must not meet the limit of a source.
    environment = {"HOLDFAST_ADMIN_KEY": stand.key, "HOLDFAST_INFLIGHT_MAX": "100000"}
    if stand.addresses is not None:
        environment["HOLDFAST_DATABASE_URL"] = database_url or stand.database_url()
        environment["HOLDFAST_MIGRATE_DATABASE_URL"] = stand.database_url(Role.MIGRATING)
    started = stack.enter_context(_process(command, **environment))
    stand.process_ids[name] = started.pid
    _await(stand, name)
    stand.addresses = stand.addresses or find_addresses(directory)


def _uvicorn(name: str) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning"]
    return [*command, f"bench.services.{MODULES[name]}:app", "--port", str(PORTS[name])]


def _redis(directory: Path) -> list[str]:
    command = ["redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1"]
    return [*command, "--save", "", "--appendonly", "no", "--dir", str(directory)]


def _environment(stand: Stand) -> dict[str, str]:
    # The other services create their tables when they start.
    url = stand.database_url(Role.SUPERUSER).replace("postgresql://", "postgresql+asyncpg://")
    return {
        "BENCH_DATABASE_URL": url,
        "BENCH_SKUS": "10000",
        "BENCH_REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}",
    }


@contextlib.contextmanager
def _process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block."""
    running_process = subprocess.Popen(  # noqa: S603 - our own command line
        command, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        yield running_process
    finally:
        running_process.terminate()
        running_process.wait(timeout=30)


def _await(stand: Stand, name: str) -> None:
    """Record the service's address once it answers."""
    url = f"http://127.0.0.1:{PORTS[name]}"
    give_up_at = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < give_up_at:
        try:
            urllib.request.urlopen(f"{url}/health/ready", timeout=1).close()  # noqa: S310 - loopback
        except urllib.error.HTTPError as error:
            if error.code != 404:  # Holdfast that is not ready; the others have no such path
                time.sleep(0.1)
                continue
        except OSError:
            time.sleep(0.1)
            continue
        stand.urls[name] = url
        return
    raise SystemExit(f"no service answers at {url}: see its log lines above")


def limit(stand: Stand, name: str, url: str) -> None:
    """Make a source with limits that the load does not reach, and a key of that source."""
    source = {LIMITED: "limited", LIMITED_TWO: "limited-two"}[name]
    made = _ask(
        stand,
        "POST",
        f"{url}/v1/keys",
        {"seq": source, "source": source, "scopes": ["reserve"]},
    )
    limits = {"open_holds_max": 10**9, "held_units_max": 10**12}
    _ask(stand, "PUT", f"{url}/v1/sources/{source}/limits", limits)
    stand.urls[name], stand.keys[name] = url, made["key"]


def _ask(stand: Stand, method: str, url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - loopback
        url,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {stand.key}"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def seed(stand: Stand, skus: int) -> None:
    """Import plenty of stock, and one SKU without units."""
    rows = "".join(f"S{number},main,1000000000\n" for number in range(1, skus + 1))
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{stand.urls[HOLDFAST]}/v1/imports?job=bench",
        data=f"sku,location,available\n{rows}T1,main,0\n".encode(),
        headers={"Content-Type": "text/csv", "Authorization": f"Bearer {stand.key}"},
    )
    urllib.request.urlopen(request, timeout=120).close()  # noqa: S310 - loopback
