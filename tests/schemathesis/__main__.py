"""`make schemathesis`: run it against a server of its own, as the arguments say."""

import asyncio
import sys

from tests.server import running_server
from tests.test_schemathesis import ARGUMENTS, run_schemathesis


def main() -> None:
    """Run it and print its output; exit with 1 if it has found anything."""
    with running_server(None) as server:
        code, printed = asyncio.run(run_schemathesis(server, *(sys.argv[1:] or ARGUMENTS)))
    print(printed)
    sys.exit(code)


if __name__ == "__main__":
    main()
