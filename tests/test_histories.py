"""Histories of real clients are linearizable, even during kills, and the check finds violations."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import pytest
from detangle import NotLinearizable, lin

from tests.conftest import fresh_database, running_service
from tests.history import Crowd, Shelf
from tests.server import Server, running_server
from tests.test_guards import without

ROUNDS = int(os.environ.get("HOLDFAST_TEST_ROUNDS", "12"))
SEED = os.environ.get("HOLDFAST_TEST_SEED") or f"{time.time_ns():x}"
SKUS, UNITS, CLIENTS, REQUESTS = 4, 4, 8, 12
ANSWER_SECONDS_MAX = 12.0  # the service promises ten


def told(*calls, units=1):
    """Return True if a history is linearizable.

    Its events come in order: (client, call, *arguments) or (client, answer). An answer of None was
    lost.
    """
    history, open_ = lin.History(), {}
    for client, what, *arguments in calls:
        if isinstance(what, str):
            open_[client] = history.invoke(client, what, ("A", *arguments))
        elif what is None:
            history.info(open_.pop(client))
        else:
            history.ok(open_.pop(client), what)
    return history.check(Shelf(units)).ok


def buys(client, seq=None, state="confirmed"):
    return client, "reserve", seq or client, 1, state


SOLD, HELD, REFUSED = ("created", "confirmed"), ("created", "held"), ("refused", 0, "first")
BOUGHT = [buys("1"), ("1", SOLD)]


def test_answers_that_fit_a_serial_order_are_accepted():
    assert told(*BOUGHT, buys("2"), ("2", REFUSED))
    assert told(buys("1"), buys("2"), ("2", SOLD), ("1", REFUSED))
    assert told(buys("1"), buys("2"), ("1", REFUSED), ("2", SOLD))
    assert told(
        *BOUGHT, ("2", "refund", "1", "r"), ("2", ("created", None)), buys("3"), ("3", SOLD)
    )


def test_a_planted_oversell_is_found():
    assert not told(*BOUGHT, buys("2"), ("2", SOLD))
    assert not told(buys("1"), buys("2"), ("2", SOLD), ("1", SOLD))


def test_a_planted_double_refund_is_found():
    back = ("created", None)
    assert not told(
        *BOUGHT, ("1", "refund", "1", "r"), ("1", back), ("2", "refund", "1", "s"), ("2", back)
    )
    once = [("1", "refund", "1", "r"), ("1", back)]
    assert told(*BOUGHT, *once, ("2", "look"), ("2", (1, 0)))
    assert not told(*BOUGHT, *once, ("2", "look"), ("2", (2, 0)))


def test_a_planted_stale_verdict_is_found():
    back = [("1", "refund", "1", "r"), ("1", ("created", None))]
    assert not told(buys("1"), ("1", REFUSED))
    assert not told(*BOUGHT, *back, buys("2"), ("2", REFUSED))
    assert told(*BOUGHT, buys("2"), *back, ("2", REFUSED))


def test_a_planted_reversal_of_a_refusal_is_found():
    """A refusal is final."""
    refused = [
        *BOUGHT,
        buys("2"),
        ("2", REFUSED),
        ("1", "refund", "1", "r"),
        ("1", ("created", None)),
    ]
    assert told(*refused, buys("3", "2"), ("3", ("refused", 0, "again")))
    assert not told(*refused, buys("3", "2"), ("3", SOLD))


def test_a_planted_loss_of_an_acknowledged_write_is_found():
    assert not told(*BOUGHT, ("2", "look"), ("2", (1, 0)))
    assert not told(*BOUGHT, ("2", "confirm", "1"), ("2", ("missing",)))
    assert not told(*BOUGHT, buys("2", "1"), ("2", SOLD))


def test_a_call_without_an_answer_may_have_its_effect_at_any_later_time_or_never():
    lost = [buys("1"), ("1", None)]
    assert told(*lost, buys("2"), ("2", SOLD))
    assert told(*lost, buys("2"), ("2", REFUSED))
    assert told(*lost, ("2", "look"), ("2", (1, 0)), ("2", "look"), ("2", (0, 0)))
    assert not told(*lost, ("2", "look"), ("2", (0, 0)), ("2", "look"), ("2", (1, 0)))


async def make_trouble(server: Server, url: str, chance: random.Random, done: Counter[str]):
    """Kill a worker or connections to the database now and then, until cancelled."""
    connection = await asyncpg.connect(url)
    try:
        while True:
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            if chance.random() < 0.7:
                done["connections"] += len(await connection.fetch(TERMINATE))
            elif workers := workers_of(server):
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    done["workers"] += 1
    finally:
        await connection.close()


TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast' AND random() < 0.7
"""


def workers_of(server: Server) -> list[int]:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if is_worker(child)]


def is_worker(child: str) -> bool:
    try:
        return "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # it was killed earlier and has been reaped just now


async def rounds(doors: Sequence[httpx.AsyncClient], source: str, seed: str) -> Counter[str]:
    """Run crowds one after another, each with new SKUs; return the number of calls by status."""
    calls = Counter[str]()
    for number in range(ROUNDS):
        crowd = Crowd(doors, source, f"{seed}-{number}")
        await crowd.shop([f"{crowd.seed}-{n}" for n in range(SKUS)], UNITS, CLIENTS, REQUESTS)
        calls.update(operation.status for operation in crowd.history.operations)
        crowd.history.assert_linearizable(Shelf(UNITS))
    return calls


async def test_every_history_is_linearizable_while_workers_and_connections_are_killed(database_url):
    done, chance = Counter[str](), random.Random(SEED)
    print(f"seed {SEED}")
    with running_server(database_url, workers=2) as server:
        trouble = asyncio.create_task(make_trouble(server, database_url, chance, done))
        async with httpx.AsyncClient(
            base_url=server.url, headers=server.headers, timeout=ANSWER_SECONDS_MAX
        ) as door:
            calls = await rounds([door], "admin", SEED)
        trouble.cancel()
        with suppress(asyncio.CancelledError):
            await trouble
    print(f"{ROUNDS * SKUS} histories, calls {dict(calls)}, killed {dict(done)}")
    assert done["workers"]
    assert done["connections"]


async def test_without_its_guard_the_service_makes_a_history_that_is_not_linearizable(
    postgres_url, monkeypatch
):
    """With two services, the snapshot of one can be stale when it writes."""
    for guard in ("stock.available + new.lowest >= 0", "stock.version = new.seen_version"):
        without("stock_changed", guard)(monkeypatch)
    async with (
        fresh_database(postgres_url) as url,
        running_service(url, strategy="guard") as one,
        running_service(url, strategy="guard") as other,
    ):
        await one.sql("ALTER TABLE stock DROP CONSTRAINT stock_available_check")
        with pytest.raises(NotLinearizable):
            await rounds([one.client, other.client], "shop-eu", "careless")
