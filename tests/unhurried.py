"""`python -m tests.unhurried serve`: Holdfast whose workers wait long for clients while they drain.

A client that shares the machine with other tests may take seconds between two requests.
"""

from service.cli import main
from service.ops import open_connections

open_connections.DRAINING_KEEP_ALIVE_SECONDS = 60.0

if __name__ == "__main__":
    main()
