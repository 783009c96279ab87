"""`make schemathesis`: run Schemathesis, with the given arguments, against a new server."""

import asyncio
import sys

from tests.server import running_server
from tests.test_schemathesis import ARGUMENTS, run_schemathesis


def main() -> None:
    """Run Schemathesis, print its output and exit with its code."""
    with running_server(None) as server:
        code, printed = asyncio.run(run_schemathesis(server, *(sys.argv[1:] or ARGUMENTS)))
    print(printed)
    sys.exit(code)


if __name__ == "__main__":
    main()
