"""`python -m tests.faults.pauses serve`: Holdfast, but a worker stops dead where it is told to.

The first worker that reaches the point named in the file `pause` of the data directory takes the
file away and stops, as by SIGSTOP: the kernel keeps its connections open, and it can be killed
right there. The service itself knows nothing of this; its functions are wrapped before it starts.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from db.queries import lists
from db.session.database import Transaction
from db.strategies.guard import Guard
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
"""In the order in which a request meets them; the last three are not on its way."""


def arm(data_dir: Path, point: str) -> None:
    """Have the next worker that gets there stop."""
    assert point in POINTS
    aside = data_dir / "pause.new"
    aside.write_text(point)
    aside.rename(data_dir / "pause")


def is_armed(data_dir: Path) -> bool:
    return (data_dir / "pause").exists()


def pause(point: str) -> None:
    """Stop if this is the point; of several workers only one does."""
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
    """Put a pause point a moment after what a coroutine function does first, such as to send."""
    original: Callable[..., Any] = getattr(owner, name)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        asyncio.get_running_loop().call_later(0.0002, pause, point)
        return await original(*arguments, **named)

    setattr(owner, name, wrapped)


def start_with_a_pause() -> None:
    """Put a pause point where a worker has been forked and does not serve yet."""
    run_worker = supervisor.run_worker

    def wrapped(*arguments: Any) -> int:
        pause("worker starting")
        return run_worker(*arguments)

    supervisor.run_worker = wrapped


if __name__ == "__main__":
    start_with_a_pause()
    wrap(Coalescer, "submit", before="request read")
    wrap(Coalescer, "drain", before="draining")
    wrap(Guard, "load", before="transaction begun")
    wrap(Guard, "apply", before="planned", after="written")
    pause_while(Transaction, "commit", "commit sent")
    wrap(Ledger, "execute", after="committed")
    wrap(Response, "__call__", before="answer written")
    wrap(lists, "overdue_holds", after="overdue holds found")
    main()
