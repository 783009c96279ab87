"""The bare route with Holdfast's own connections: an answer leaves in one write there, too."""

import sys

import uvicorn

from bench.services.bare import app
from service.ops.connections import Connections

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        http=Connections(1_000).make,
        loop="uvloop",
        log_config=None,
        ws="none",
    )
