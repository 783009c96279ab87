"""The bare route with Holdfast's own connections: an answer leaves in one write there, too."""

import sys

import uvicorn

from bench.services.bare import app
from service.connection import Connection

if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), http=Connection, loop="uvloop", log_config=None, ws="none"
    )
