"""Lost races are counted by the class of their stock: hot, cold or none."""

import pytest

from service.engine import contention
from service.engine.contention import LostRows

A, B = ("A", "main"), ("B", "main")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lost(clock):
    return LostRows(clock)


def test_a_row_for_which_three_races_in_a_second_are_lost_is_hot(lost, clock):
    classes = []
    for clock.now in (0.0, 0.3, 0.6):
        classes.append(lost.classify({A}))
    assert classes == ["cold", "cold", "hot"]


def test_a_hot_row_turns_cold_when_no_more_races_for_it_are_lost(lost, clock):
    for clock.now in (0.0, 0.3, 0.6, 1.5):
        last = lost.classify({A})
    assert last == "cold"


def test_a_transaction_is_hot_if_one_of_its_rows_is(lost):
    for _ in range(2):
        lost.classify({A})
    assert lost.classify({B}) == "cold"
    assert lost.classify({A, B}) == "hot"


def test_a_transaction_that_names_only_reservations_has_no_class(lost):
    assert lost.classify(set()) == "none"


def test_the_number_of_remembered_rows_is_bounded(lost, monkeypatch):
    monkeypatch.setattr(contention, "ROWS_MAX", 5)
    for number in range(100):
        lost.classify({(str(number), "main")})
    assert len(lost._lost) <= 5
