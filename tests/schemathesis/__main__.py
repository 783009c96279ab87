"""`make schemathesis`: run Schemathesis for longer than the suite, against a new server.

Without arguments it draws ten times as many requests as the suite, and other ones each time.
"""

import asyncio
import sys

from tests.server import running_server
from tests.test_schemathesis import run_schemathesis

LONGER = ("-n", "100")


def main() -> None:
    """Run Schemathesis, print its output and exit with its code."""
    with running_server(None) as server:
        code, printed = asyncio.run(run_schemathesis(server, *(sys.argv[1:] or LONGER)))
    print(printed)
    sys.exit(code)


if __name__ == "__main__":
    main()
