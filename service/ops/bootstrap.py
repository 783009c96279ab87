"""Prepares a database before the service starts: the first admin key and the demo's stock."""

import hashlib
from pathlib import Path

import structlog

from db.files import make_directory, write_private
from db.queries import credentials, records
from db.session.database import Database
from db.strategies.guard import Guard
from service.domain.commands import ImportStock
from service.engine.ledger import Ledger
from service.http.access.keys import end_other_first_keys, ensure_admin_key, new_key
from service.settings import Settings

log = structlog.get_logger()

KEY_FILE = "admin.key"

DEMO = (
    ("85123A", "main", 100, "White hanging heart T-light holder"),
    ("22423", "main", 40, "Regency cakestand 3 tier"),
    ("85099B", "main", 250, "Jumbo bag red retrospot"),
    ("47566", "main", 60, "Party bunting"),
    ("20725", "main", 120, "Lunch bag red retrospot"),
    ("84879", "main", 80, "Assorted colour bird ornament"),
    ("22720", "main", 7, "Set of 3 cake tins pantry design"),
    ("85123A", "outlet", 12, "White hanging heart T-light holder"),
)
"""Some products of the shop whose orders `holdfast replay` sends; the quantities are invented."""


async def ensure_first_key(database: Database, settings: Settings) -> None:
    """Ensure that there is an admin key: the operator's, the data directory's, or a new one.

    If the database already has an admin key and there is no key file, no second key is made.
    A key that the operator chooses replaces the previous first key, which is revoked.
    """
    file = settings.data_dir / KEY_FILE
    chosen, stored = settings.first_admin_key(), _read(file)
    key = chosen or stored
    if key is None:
        if await database.read(credentials.has_admin):
            return
        key = new_key()
    try:
        _write(file, key)
    except OSError as error:
        if chosen is None:  # the new key would be lost: the file is its only copy
            raise
        log.warning("admin_key_not_written", file=str(file), error=str(error))
    await ensure_admin_key(database, key)
    if chosen is not None and await end_other_first_keys(database, key, stored):
        log.warning(
            "admin_key_replaced",
            reason="the operator chose another key; the previous one was revoked",
        )


async def load_demo(database: Database) -> bool:
    """Import the demo's stock into an empty database; True when the database has it."""
    if await database.read(records.has_other_stock_than_demo):
        return False
    digest = hashlib.sha256(repr(DEMO).encode()).hexdigest()
    command = ImportStock("admin", "demo", digest, tuple(sorted(DEMO)))
    await Ledger(database, Guard()).execute([command])
    return True


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None


def _write(file: Path, key: str) -> None:
    """Write the key atomically to a file that only its owner can read."""
    if _read(file) == key:
        return
    make_directory(file.parent)
    write_private(file, key + "\n")
