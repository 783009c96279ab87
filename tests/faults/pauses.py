"""`python -m tests.faults.pauses serve`: Holdfast, with a worker that stops at a chosen point.

The file `pause` in the data directory names the point. The first worker that reaches it removes the
file and stops itself with SIGSTOP: the kernel keeps its connections open, and a test can kill it
there. The service has no code for this; its functions are wrapped before it starts.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from db.queries import lists
from db.session.database import Transaction
from db.strategies.strategy import Strategy
from service.cli import main
from service.engine.coalescer import Coalescer
from service.engine.ledger import Ledger
from service.http.responses import Response
from service.ops import supervisor

POINTS = (
    "request read",
    "transaction begun",
    "planned",
    "written",
    "commit sent",
    "committed",
    "answer written",
    "overdue holds found",
    "draining",
    "worker starting",
)
"""The points that a request passes, in order; a request does not pass the last three."""


def arm(data_dir: Path, point: str) -> None:
    """Make the next worker that reaches the point stop."""
    assert point in POINTS
    aside = data_dir / "pause.new"
    aside.write_text(point)
    aside.rename(data_dir / "pause")


def is_armed(data_dir: Path) -> bool:
    return (data_dir / "pause").exists()


def pause(point: str) -> None:
    """Stop if this is the chosen point; only one of several workers does."""
    file = Path(os.environ["HOLDFAST_DATA_DIR"], "pause")
    try:
        if file.read_text() == point:
            file.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
    except FileNotFoundError:
        pass


def wrap(owner: Any, name: str, before: str = "", after: str = "") -> None:
    """Put a pause point before or after a coroutine function."""
    original = getattr(owner, name)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        pause(before)
        result = await original(*arguments, **named)
        if result != [] or after != "overdue holds found":
            pause(after)
        return result

    setattr(owner, name, wrapped)


def pause_while(owner: Any, name: str, point: str) -> None:
    """Put a pause point shortly after the first action of a coroutine function, such as a send."""
    original: Callable[..., Any] = getattr(owner, name)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        asyncio.get_running_loop().call_later(0.0002, pause, point)
        return await original(*arguments, **named)

    setattr(owner, name, wrapped)


def start_with_a_pause() -> None:
    """Put a pause point between the fork of a worker and its first request."""
    run_worker = supervisor.run_worker

    def wrapped(*arguments: Any) -> int:
        pause("worker starting")
        return run_worker(*arguments)

    supervisor.run_worker = wrapped


if __name__ == "__main__":
    start_with_a_pause()
    wrap(Coalescer, "submit", before="request read")
    wrap(Coalescer, "drain", before="draining")
    wrap(Strategy, "load", before="transaction begun")
    wrap(Strategy, "apply", before="planned", after="written")
    pause_while(Transaction, "commit", "commit sent")
    wrap(Ledger, "execute", after="committed")
    wrap(Response, "__call__", before="answer written")
    wrap(lists, "overdue_holds", after="overdue holds found")
    main()
