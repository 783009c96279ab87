"""Patience for tests that share the machine with others and assert nothing about timeouts.

There a client may take seconds between two requests, and PostgreSQL seconds for a statement.
`python -m tests.patient serve` is Holdfast that waits long for clients and for the database. A test
with the fixture `patient` has services of the same patience in its own process.
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
