"""The coalescer merges requests, and no request suffers from another one in its batch."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest

from db.rows import Line
from db.session.database import Database, Timeouts
from db.strategies.guard import Guard
from service.domain import planner
from service.domain.commands import Command, Done, Reserve, SetStock, verdict_of
from service.domain.errors import Contention, InternalError, OutcomeUnknown, Overloaded, Unavailable
from service.domain.identifiers import reservation_id
from service.engine.coalescer import Coalescer, CoalescerLimits
from service.engine.ledger import Ledger, RetryPolicy
from service.engine.sweeper import sweep

IMPATIENT = Timeouts(lock=0.1)


def reserve(seq: Any, sku: str = "A") -> Reserve:
    seq = str(seq)
    lines = (Line(sku, "main", 1),)
    return Reserve("us", seq, None, lines, 60, {}, reservation_id("us", seq))


class Gate:
    """Wraps a ledger: notes the size of each batch, and holds batches until `opened` is set."""

    def __init__(self, ledger: Ledger) -> None:
        self.batches: list[int] = []
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._execute = ledger.execute
        ledger.execute = self.execute  # type: ignore[method-assign]

    async def execute(self, commands: Any, *more_wait: Any) -> Any:
        self.batches.append(len(commands))
        self.reached.set()
        await self.opened.wait()
        return await self._execute(commands, *more_wait)


@asynccontextmanager
async def working(url: str, **limits: Any) -> AsyncIterator[Any]:
    """A coalescer; at the end of the block it answers every submission before it closes."""
    database = Database(url, pool_size=4, timeouts=IMPATIENT)
    ledger = Ledger(database, Guard(), RetryPolicy(attempts_max=4))
    coalescer = Coalescer(ledger, CoalescerLimits(**limits))
    for sku in "ABC":
        await ledger.execute([SetStock(sku, "main", 1000, None, None, None)])
    yield coalescer
    await coalescer.drain()
    await database.close()


@pytest.fixture
async def coalescer(database_url: str) -> AsyncIterator[Coalescer]:
    async with working(database_url) as made:
        yield made


def begin(coalescer: Coalescer, *submissions: list[Command[Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(coalescer.submit(commands)) for commands in submissions]


async def settled(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    """Every task's outcomes, or its error."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*tasks, return_exceptions=True)


def verdicts(outcomes: list[Any]) -> list[str]:
    return [verdict_of(outcome) for outcome in outcomes]


async def test_requests_that_queue_during_a_batch_are_the_next_batch(coalescer):
    gate = Gate(coalescer.ledger)
    first = begin(coalescer, [reserve(0)])
    await gate.reached.wait()
    rest = begin(coalescer, *([reserve(n)] for n in range(1, 51)))
    await asyncio.sleep(0)
    gate.opened.set()
    assert all(outcomes[0].effect == "created" for outcomes in await settled(first + rest))
    assert gate.batches == [1, 50]


async def test_a_batch_stays_within_its_bound_and_keeps_a_submission_together(database_url):
    async with working(database_url, batch_lines_max=4) as coalescer:
        gate = Gate(coalescer.ledger)
        gate.opened.set()
        submissions = [[reserve(f"{n}/{m}") for m in range(3)] for n in range(3)]
        submissions.append([reserve(f"large/{m}") for m in range(9)])
        answers = await settled(begin(coalescer, *submissions))
        assert [len(outcomes) for outcomes in answers] == [3, 3, 3, 9]
        assert sorted(gate.batches) == [3, 3, 3, 9]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracebacks of planned failures in the log: drawing one takes a second."""
    monkeypatch.setattr("service.engine.ledger.log", Mock())


@pytest.fixture(params=[AssertionError, ValueError])
def poison(request: Any, quiet: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A seq with which every reservation fails."""
    rule = planner.RULES[Reserve]

    def poisoned(books: Any, command: Reserve) -> Any:
        if command.seq == "poison":
            raise request.param("this should not happen")
        return rule(books, command)

    monkeypatch.setattr(planner, "RULES", {**planner.RULES, Reserve: poisoned})
    return "poison"


async def test_a_poison_request_fails_alone(coalescer, poison):
    seqs = [*range(7), poison, *range(7, 20)]
    answers = await settled(begin(coalescer, *([reserve(seq)] for seq in seqs)))
    assert isinstance(answers.pop(7), InternalError)
    assert all(outcomes[0].effect == "created" for outcomes in answers)


async def test_a_poison_entry_of_a_batch_fails_alone(coalescer, poison):
    outcomes = await coalescer.submit([reserve(seq) for seq in [1, 2, poison, 3]])
    assert verdicts(outcomes) == ["created", "created", "internal_error", "created"]


@asynccontextmanager
async def locked(url: str, sku: str) -> AsyncIterator[None]:
    """Lock the row in another session while the block runs."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM stock WHERE sku = $1 FOR UPDATE", sku)
        yield
    await connection.close()


async def test_a_request_that_waits_for_a_locked_row_does_not_delay_others(coalescer, database_url):
    async with locked(database_url, "A"):
        blocked = begin(coalescer, *([reserve(f"A{n}")] for n in range(8)))
        others = begin(coalescer, *([reserve(f"{sku}{n}", sku)] for sku in "BC" for n in range(8)))
        assert all(outcomes[0].effect == "created" for outcomes in await settled(others))
        later = begin(coalescer, [reserve("late", "A")], [reserve("late too", "B")])
        assert (await later[1])[0].effect == "created"
        assert not any(task.done() for task in [*blocked, later[0]])
    assert all(outcomes[0].effect == "created" for outcomes in await settled([*blocked, later[0]]))


async def test_a_batch_in_which_all_wait_for_a_locked_row_does_not_delay_others(
    coalescer, database_url
):
    async with locked(database_url, "A"):
        blocked = begin(coalescer, *([reserve(f"A{n}")] for n in range(16)))
        blocked += begin(coalescer, [reserve(f"many{n}") for n in range(16)])
        await asyncio.sleep(0)  # so that they are a batch of their own
        others = begin(coalescer, *([reserve(f"B{n}", "B")] for n in range(16)))
        assert all(outcomes[0].effect == "created" for outcomes in await settled(others))
        assert not any(task.done() for task in blocked)
    assert {verdict for o in await settled(blocked) for verdict in verdicts(o)} == {"created"}


async def test_a_lock_that_is_never_released_is_contention_and_nothing_is_written(
    coalescer, database_url
):
    async with locked(database_url, "A"):
        alone = begin(coalescer, [reserve("alone")])
        assert {type(answer) for answer in await settled(alone)} == {Contention}
        many = begin(coalescer, *([reserve(n)] for n in range(8)))
        mixed = begin(coalescer, [reserve("x", "B"), reserve("y"), reserve("z", "C")])
        assert {type(answer) for answer in await settled(many)} == {Contention}
        assert verdicts((await settled(mixed))[0]) == ["created", "contention", "created"]
    again = await settled(begin(coalescer, *([reserve(n)] for n in [*range(8), "alone", "y"])))
    assert [o[0].effect for o in again] == ["created"] * 10


async def filled(coalescer: Coalescer) -> tuple[Gate, list[asyncio.Task[Any]]]:
    """Fill a queue of one command: a batch waits at the gate, and one more command is queued."""
    gate = Gate(coalescer.ledger)
    taken = begin(coalescer, [reserve("first")])
    await gate.reached.wait()
    taken += begin(coalescer, [reserve(1)])
    await asyncio.sleep(0)
    return gate, taken


async def test_a_request_that_finds_the_queue_full_is_refused(database_url):
    async with working(database_url, queued_commands_max=5, full_wait_seconds=0) as coalescer:
        gate = Gate(coalescer.ledger)
        taken = begin(coalescer, [reserve("first")])
        await gate.reached.wait()
        taken += begin(coalescer, [reserve(1), reserve(2)], [reserve(3), reserve(4), reserve(5)])
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await coalescer.submit([reserve(6)])
        gate.opened.set()
        assert {verdict for o in await settled(taken) for verdict in verdicts(o)} == {"created"}
        assert (await coalescer.submit([reserve(6)]))[0].effect == "created"


async def test_a_request_that_finds_the_queue_full_waits_briefly(database_url):
    async with working(database_url, queued_commands_max=2, full_wait_seconds=0.5) as coalescer:
        gate = Gate(coalescer.ledger)
        taken = begin(coalescer, [reserve("first")])
        await gate.reached.wait()
        taken += begin(coalescer, [reserve(1)], [reserve(2)])
        await asyncio.sleep(0)
        expecting = asyncio.create_task(coalescer.wait_for_space())
        late = begin(coalescer, [reserve("late")], [reserve(n) for n in range(10, 40)])
        await asyncio.sleep(0)
        assert not any(task.done() for task in [expecting, *late])
        gate.opened.set()
        assert {verdict for o in await settled(taken + late) for verdict in verdicts(o)} == {
            "created"
        }
        assert await expecting >= 0.25  # half of the wait, the least that jitter leaves
        assert await coalescer.wait_for_space() == 0


async def test_the_more_requests_wait_for_space_the_longer_each_waits(database_url):
    """So the rate of refusals does not grow with the number of requests."""
    limits = {"full_wait_seconds": 0, "refusals_per_second": 10, "full_wait_seconds_max": 0.4}
    async with working(database_url, queued_commands_max=1, **limits) as coalescer:
        gate, taken = await filled(coalescer)
        began_at = asyncio.get_running_loop().time()
        refused = await settled(begin(coalescer, *([reserve(n)] for n in range(10, 30))))
        assert asyncio.get_running_loop().time() - began_at >= 0.2  # half of the longest wait
        assert {type(answer) for answer in refused} == {Overloaded}
        gate.opened.set()
        await settled(taken)


async def test_time_already_waited_is_deducted(database_url):
    async with working(database_url, answer_seconds_max=60) as coalescer:
        gate = Gate(coalescer.ledger)
        with pytest.raises(OutcomeUnknown):
            async with asyncio.timeout(10):
                await coalescer.submit([reserve(1)], waited_seconds=60)
        gate.opened.set()


async def test_a_full_queue_accepts_the_sweeper(database_url):
    async with working(database_url, queued_commands_max=1, full_wait_seconds=0) as coalescer:
        await coalescer.submit([reserve("overdue")])
        connection = await asyncpg.connect(database_url)
        await connection.execute("UPDATE reservation SET expires_at = clock_timestamp()")
        await connection.close()
        gate, taken = await filled(coalescer)
        sweeping = asyncio.create_task(sweep(coalescer.ledger.database, coalescer))
        await asyncio.wait([sweeping], timeout=0.5)  # so that it waits in the queue
        gate.opened.set()
        assert await sweeping == 1
        await settled(taken)


async def test_waiting_for_space_in_a_queue_that_stays_full_is_refused(database_url):
    async with working(database_url, queued_commands_max=1, full_wait_seconds=0) as coalescer:
        gate, taken = await filled(coalescer)
        with pytest.raises(Overloaded):
            await coalescer.wait_for_space()
        gate.opened.set()
        await settled(taken)


async def test_a_request_that_is_queued_too_long_is_refused_and_has_no_effect(database_url):
    async with working(database_url, queued_seconds_max=0.01) as coalescer:
        gate = Gate(coalescer.ledger)
        first = begin(coalescer, [reserve("first")])
        await gate.reached.wait()
        with pytest.raises(Overloaded):
            await coalescer.submit([reserve(1)])
        gate.opened.set()
        assert (await settled(first))[0][0].effect == "created"
        assert not (await coalescer.submit([reserve(1)]))[0].replayed


@pytest.mark.parametrize(
    ("commands", "bound"), [(1, "answer_seconds_max"), (3, "large_answer_seconds_max")]
)
async def test_a_request_that_takes_too_long_is_answered_and_its_retry_finds_the_outcome(
    database_url, commands, bound
):
    """The batch is running, so the service can't know yet whether it will commit."""
    async with working(database_url, lane_lines_max=2, **{bound: 0.01}) as coalescer:
        gate = Gate(coalescer.ledger)
        with pytest.raises(OutcomeUnknown):
            await coalescer.submit([reserve(n) for n in range(commands)])
        assert gate.batches == [commands]
        gate.opened.set()
        again = await coalescer.submit([reserve(n) for n in range(commands)])
        assert verdicts(again) == ["unchanged"] * commands


async def test_a_client_that_disconnects_cancels_nothing(coalescer):
    gate = Gate(coalescer.ledger)
    task = begin(coalescer, [reserve(1)])[0]
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    again = (await coalescer.submit([reserve(1)]))[0]
    assert again.effect == "unchanged"


async def test_hundreds_of_clients_that_disconnect_leave_no_submission_half_done(
    coalescer, database_url
):
    chance = random.Random(7)
    tasks = []
    for n in range(400):
        tasks += begin(coalescer, [reserve(f"{n}/{m}", "ABC"[m]) for m in range(3)])
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        chance.choice(tasks).cancel()
    answers = await settled(tasks)
    assert {type(answer) for answer in answers} == {list, asyncio.CancelledError}
    await coalescer.drain()
    connection = await asyncpg.connect(database_url)
    found = await connection.fetch(
        "SELECT split_part(seq, '/', 1)::int AS n, count(*) FROM reservation GROUP BY 1"
    )
    idle = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    await connection.close()
    assert idle == 0
    assert {row["count"] for row in found} == {3}
    answered = {n for n, answer in enumerate(answers) if isinstance(answer, list)}
    assert answered <= {row["n"] for row in found}


async def test_draining_answers_all_accepted_requests_and_accepts_no_more(coalescer):
    taken = begin(coalescer, *([reserve(n)] for n in range(100)))
    await asyncio.sleep(0)
    await coalescer.drain()
    assert all(task.done() for task in taken)
    assert all(isinstance(task.result()[0], Done) for task in taken)
    with pytest.raises(Unavailable):
        await coalescer.submit([reserve("late")])


async def test_a_request_that_waits_for_space_is_answered_when_the_service_shuts_down(database_url):
    async with working(database_url, queued_commands_max=1, full_wait_seconds=0.02) as coalescer:
        gate, taken = await filled(coalescer)
        waiting = [*begin(coalescer, [reserve(2)]), asyncio.create_task(coalescer.wait_for_space())]
        await asyncio.sleep(0)
        gate.opened.set()
        await coalescer.drain()
        assert {type(answer) for answer in await settled(waiting)} == {Unavailable}
        assert {verdict for o in await settled(taken) for verdict in verdicts(o)} == {"created"}


async def test_an_unforeseen_error_is_answered_too(coalescer, quiet, monkeypatch):
    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("this should not happen")

    monkeypatch.setattr(coalescer.ledger.database, "transact", fail)
    alone, many = await settled(begin(coalescer, [reserve(1)], [reserve(2), reserve(3)]))
    assert (alone.code, verdicts(many)) == ("internal_error", ["internal_error"] * 2)
