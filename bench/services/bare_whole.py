"""The bare route with Holdfast's HTTP protocol, which sends an answer in one write."""

import sys
from functools import partial
from typing import Any, cast

import uvicorn

from bench.services.bare import app
from service.ops.open_connections import OpenConnections
from service.ops.protocol import BoundedProtocol

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        http=cast("Any", partial(BoundedProtocol, OpenConnections(1_000))),
        loop="uvloop",
        log_config=None,
        ws="none",
    )
