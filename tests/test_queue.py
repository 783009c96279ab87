"""The queue keeps the order of arrival, but a crowd for one SKU does not delay other requests."""

import asyncio
from typing import Any

import pytest

from db.rows import Line
from service.domain.commands import Caller, Cancel, Command, Reserve
from service.domain.errors import Overloaded
from service.domain.identifiers import reservation_id
from service.engine.queue import Queue, Submission


def submission(
    seq: Any, *skus: str, at: float = 0.0, commands: list[Command[Any]] | None = None
) -> Submission:
    lines = tuple(Line(sku, "main", 1) for sku in skus)
    order = Reserve("us", f"{seq}", None, lines, None, {}, reservation_id("us", f"{seq}"))
    future = asyncio.get_running_loop().create_future()
    return Submission(commands or [order], future, at, len(lines) or 1, 0.0)


def queue_of(*submissions: Submission, commands_max: int = 100, crowd_min: int = 3) -> Queue:
    queue = Queue(commands_max, crowd_min)
    for each in submissions:
        queue.put(each)
    return queue


def taken(queue: Queue, lines_max: int, without: Any = frozenset()) -> list[str]:
    return [each.commands[0].seq for each in queue.take(lines_max, set(without))]


async def test_submissions_are_taken_in_the_order_of_their_arrival():
    queue = queue_of(*(submission(n, "AB"[n % 2]) for n in range(5)))
    assert taken(queue, 4) == ["0", "1", "2", "3"]
    assert taken(queue, 4) == ["4"]
    assert not queue
    assert queue.commands == 0


async def test_submissions_outside_a_crowd_go_first():
    queue = queue_of(*(submission(f"A{n}", "A") for n in range(9)), submission("B", "B"))
    assert taken(queue, 5) == ["A0", "A1", "A2", "B", "A3"]


async def test_a_crowd_gets_a_quarter_of_each_batch_however_many_others_wait():
    queue = queue_of(*(submission(f"A{n}", "A") for n in range(9)), crowd_min=1)
    for n in range(20):
        queue.put(submission(f"{n}", f"B{n}"))
    assert taken(queue, 8) == ["A0", "0", "1", "2", "3", "4", "A1", "A2"]


async def test_the_others_get_the_rest_of_a_batch_that_the_crowd_does_not_fill():
    queue = queue_of(
        submission("A0", "A"),
        submission("A1", "A"),
        *(submission(n, f"B{n}") for n in range(9)),
        crowd_min=1,
    )
    assert taken(queue, 8) == ["A0", "0", "1", "2", "3", "4", "A1", "5"]


async def test_an_order_joins_the_crowd_of_any_of_its_skus():
    queue = queue_of(
        *(submission(n, "A") for n in range(3)), submission("both", "B", "A"), submission("B", "B")
    )
    assert taken(queue, 4) == ["0", "1", "2", "B"]
    assert taken(queue, 4) == ["both"]


async def test_a_sku_has_no_crowd_any_more_once_few_submissions_wait_for_it():
    queue = queue_of(*(submission(n, "A") for n in range(3)))
    assert len(taken(queue, 2)) == 2
    queue.put(submission("next", "A"))
    queue.put(submission("B", "B"))
    assert taken(queue, 9) == ["2", "next", "B"]


async def test_a_command_that_names_no_stock_row_joins_no_crowd():
    cancel = Cancel(Caller("us"), reservation_id("us", "x"))
    queue = queue_of(*(submission(n, "A") for n in range(9)), submission("c", commands=[cancel]))
    first = queue.take(8, set())
    assert [type(each.commands[0]) for each in first[:4]] == [Reserve] * 3 + [Cancel]


async def test_a_crowd_is_refused_when_the_queue_is_three_quarters_full():
    queue = queue_of(*(submission(n, "A") for n in range(6)), commands_max=8, crowd_min=1)
    with pytest.raises(Overloaded, match="same SKU"):
        queue.put(submission("late", "A"))
    queue.put(submission("B", "B"))
    queue.put(submission("C", "C"))
    assert queue.is_full
    with pytest.raises(Overloaded, match="Too many requests are"):
        queue.put(submission("D", "D"))


async def test_a_refused_submission_leaves_nothing_in_the_queue():
    queue = queue_of(*(submission(n, "AC"[n % 2]) for n in range(4)), commands_max=4)
    with pytest.raises(Overloaded):
        queue.put(submission("B", "B"))
    assert len(taken(queue, 9)) == 4
    assert (queue.commands, queue._waiting) == (0, {})


async def test_a_submission_larger_than_the_queue_is_accepted_when_nothing_else_waits():
    cancel: list[Command[Any]] = [Cancel(Caller("us"), reservation_id("us", "x"))] * 9
    queue = queue_of(submission("large", commands=cancel), commands_max=4)
    assert len(queue.take(2, set())) == 1


async def test_a_submission_that_names_a_locked_row_keeps_its_place():
    queue = queue_of(submission(0, "A"), submission(1, "B"), submission(2, "A"), submission(3, "C"))
    assert taken(queue, 9, without={("A", "main")}) == ["1", "3"]
    queue.put(submission(4, "B"))
    assert taken(queue, 9) == ["0", "2", "4"]


async def test_a_submission_whose_client_has_disconnected_is_dropped():
    gone = submission("gone", "A")
    gone.outcomes.cancel()
    assert taken(queue_of(gone, submission("here", "A")), 9) == ["here"]


async def test_submissions_that_waited_too_long_are_found_in_the_crowd_too():
    queue = queue_of(*(submission(n, "A", at=n) for n in range(5)), submission("B", "B", at=5))
    assert [each.commands[0].seq for each in queue.take_older(4)] == ["0", "1", "2", "3"]
    assert taken(queue, 9) == ["B", "4"]
