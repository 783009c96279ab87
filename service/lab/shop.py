"""The shop of an experiment: its stock before the run, and the audit of its books afterwards."""

from db.queries.audit import audit
from db.session.database import Database
from db.strategies.guard import Guard
from service.domain.commands import SetStock
from service.engine.ledger import Ledger
from service.lab.experiment import LOCATION, Experiment

AUDIT_SECONDS_MAX = 120
STOCK_BATCH = 500


async def create_stock(url: str, experiment: Experiment) -> None:
    """Create the experiment's stock through the ledger, as a client does."""
    database = Database(url, pool_size=1)
    try:
        names = experiment.sku_names
        ledger = Ledger(database, Guard())
        for start in range(0, len(names), STOCK_BATCH):
            await ledger.execute(
                [
                    SetStock(name, LOCATION, experiment.stock, None, None, None)
                    for name in names[start : start + STOCK_BATCH]
                ]
            )
    finally:
        await database.close()


async def find_drift(url: str) -> list[str]:
    """Audit the books; return a sentence for each drift."""
    database = Database(url, pool_size=1)
    try:
        found = await audit(database, seconds_max=AUDIT_SECONDS_MAX)
    finally:
        await database.close()
    return [
        f"{drift['rule']}: {drift.get('sku', '')} {drift.get('reservation_id', '')}"
        f" expected {drift['expected']}, found {drift['found']}"
        for drift in found.drift
    ]
