"""Long timeouts for tests that assert nothing about timeouts.

On a busy machine a client may take seconds between two requests, and PostgreSQL may take seconds
for a statement. `python -m tests.patient serve` runs Holdfast with long timeouts for clients and
the database. With the fixture `patient`, the services in a test's own process have them too.
"""

from db.session import database
from db.session.database import Timeouts
from service.cli import main
from service.ops import open_connections

PATIENCE = Timeouts(pool=30, connect=30, check=30, lock=30, statement=60, transaction=60, settle=30)

if __name__ == "__main__":
    open_connections.DRAINING_KEEP_ALIVE_SECONDS = 60.0
    database.Timeouts = lambda: PATIENCE  # type: ignore[assignment, misc]
    main()
