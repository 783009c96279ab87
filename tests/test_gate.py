"""The gate before the pool admits callers in their order, and readers to half of its places."""

import asyncio

import pytest

from db.session.gate import Gate

PATIENCE = 60.0


class Visitors:
    """Callers of a gate, each with a letter as its name: lower case for readers."""

    def __init__(self, room: int) -> None:
        self.gate = Gate(room)
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, names: str) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(
                self.gate.enter(is_reader=name.islower(), seconds_max=PATIENCE)
            )
        await self.settle()

    async def leave(self, names: str) -> None:
        for name in names:
            self.tasks.pop(name).result()
            self.gate.leave(is_reader=name.islower())
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def inside(self) -> str:
        return "".join(name for name, task in self.tasks.items() if task.done())


@pytest.mark.parametrize(
    ("room", "coming", "inside"),
    [
        (4, "ABCDE", "ABCD"),
        (4, "abcd", "ab"),
        (4, "abcAB", "abAB"),
        (4, "ABCabD", "ABCa"),
        (5, "abc", "ab"),
        (3, "abA", "aA"),
        (1, "aA", "a"),
        (1, "Aa", "A"),
    ],
)
async def test_readers_get_half_of_the_places_at_most_and_other_callers_all(room, coming, inside):
    visitors = Visitors(room)
    await visitors.come(coming)
    assert visitors.inside == inside


async def test_callers_enter_in_the_order_in_which_they_came():
    visitors = Visitors(1)
    await visitors.come("AbCd")
    for leaving, entering in (("A", "b"), ("b", "C"), ("C", "d")):
        await visitors.leave(leaving)
        assert visitors.inside == entering


async def test_a_reader_that_waits_for_other_readers_keeps_no_other_caller_waiting():
    visitors = Visitors(2)
    await visitors.come("abcA")
    assert (visitors.inside, visitors.gate.has_queue) == ("aA", False)
    await visitors.come("B")
    assert visitors.gate.has_queue
    await visitors.leave("A")
    assert visitors.inside == "aB"
    await visitors.leave("a")
    assert visitors.inside == "bB"


async def test_readers_that_wait_for_other_readers_do_not_count_as_a_queue():
    """A caller that leaves does not help them: another reader must leave first."""
    visitors = Visitors(4)
    await visitors.come("abcA")
    assert not visitors.gate.has_queue


async def test_a_caller_that_waits_too_long_gets_an_error_and_takes_no_place():
    visitors = Visitors(1)
    await visitors.come("A")
    with pytest.raises(TimeoutError):
        await visitors.gate.enter(is_reader=False, seconds_max=0.01)
    await visitors.come("B")
    await visitors.leave("A")
    assert visitors.inside == "B"


async def test_a_caller_that_is_cancelled_as_it_enters_leaves_its_place_to_the_next():
    visitors = Visitors(1)
    await visitors.come("ABC")
    visitors.gate.leave(is_reader=False)  # B is admitted, but its task has not run yet
    visitors.tasks["B"].cancel()
    await visitors.settle()
    assert visitors.tasks["B"].cancelled()
    assert visitors.tasks["C"].done()


async def test_more_room_admits_callers_at_once_and_less_room_none_until_enough_have_left():
    visitors = Visitors(1)
    await visitors.come("ABCD")
    visitors.gate.room = 3
    await visitors.settle()
    assert visitors.inside == "ABC"
    visitors.gate.room = 1
    await visitors.leave("AB")
    assert visitors.inside == "C"
    await visitors.leave("C")
    assert visitors.inside == "D"
