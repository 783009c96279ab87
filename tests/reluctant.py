"""`python -m tests.reluctant serve`: Holdfast whose workers start when a test lets them, or fail.

A worker waits for the file `RELUCTANT_GATE`. It starts if the file contains `serve`.
"""

import os
import time
from pathlib import Path

from service.cli import main
from service.http import app
from service.http.worker_state import WorkerState
from service.settings import Settings

build = app.build_worker


def build_when_allowed(settings: Settings) -> WorkerState:
    gate = Path(os.environ["RELUCTANT_GATE"])
    print("a worker waits")
    while not gate.exists():
        time.sleep(0.01)
    if gate.read_text() != "serve":
        raise RuntimeError("this worker may not start")
    return build(settings)


app.build_worker = build_when_allowed

if __name__ == "__main__":
    main()
