"""`holdfast serve`: starts PostgreSQL unless an address is given, migrates, starts the workers.

The supervisor never serves. This module starts PostgreSQL, migrates and opens the listening
socket; then the supervisor forks the workers and watches all processes. It restarts each one that
ends. All processes that it starts end with it.
"""

import asyncio
import contextlib
import signal
import sys
from types import FrameType

import structlog

from db.embedded.server import EmbeddedPostgres
from db.migrate import upgrade
from db.session.database import Database
from db.session.fitness import concerns, granted_connections
from service.ops.bootstrap import KEY_FILE, ensure_first_key, load_demo
from service.ops.certificate import ServedCertificate
from service.ops.listener import open_listener
from service.ops.log_output import configure_logging
from service.ops.supervisor import Supervisor
from service.settings import Settings

log = structlog.get_logger()


def serve(settings: Settings, *, demo: bool = False) -> int:
    """Bring everything up, serve until SIGTERM or SIGINT, and return the exit code."""
    configure_logging(settings.log_format)
    signal.signal(signal.SIGTERM, _exit)  # during start-up too, and as process 1
    certificate = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificate = ServedCertificate(settings.tls_cert, settings.tls_key)
    with contextlib.ExitStack() as stack:
        postgres = None
        if settings.database_url is None:
            postgres = stack.enter_context(EmbeddedPostgres(settings.data_dir, settings.pg_bin))
            settings = settings.at(postgres.addresses)
        has_demo, pool_size = asyncio.run(_prepare(settings, demo=demo and postgres is not None))
        listener = stack.enter_context(open_listener(settings.host, settings.port))
        port = listener.getsockname()[1]
        settings = settings.model_copy(update={"port": port, "pool_size": pool_size})
        supervisor = Supervisor(settings, listener, postgres, certificate)
        return supervisor.run(announce=lambda: announce(settings, has_demo=has_demo))


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


async def _prepare(settings: Settings, *, demo: bool) -> tuple[bool, int]:
    """Migrate, ensure that there is an admin key, load the demo, and check the database.

    Returns whether the demo's stock was loaded, and the pool size of each worker.
    """
    database = Database(str(settings.database_url), pool_size=3)
    try:
        await upgrade(database, settings.migrate_database_url)
        for concern in await concerns(database):
            log.warning("database_concern", concern=concern)
        pool_size = fair_pool_size(settings, await granted_connections(database))
        await ensure_first_key(database, settings)
        return demo and await load_demo(database), pool_size
    finally:
        await database.close()


def fair_pool_size(settings: Settings, granted: int | None) -> int:
    """Return the pool size of each worker: at most its share of the role's connections.

    One connection is left for commands like `holdfast key create`.
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


def announce(settings: Settings, *, has_demo: bool) -> None:
    """Print the addresses of the service and the path of the admin key to stdout."""
    base = base_url(settings)
    key = settings.data_dir / KEY_FILE
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
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
