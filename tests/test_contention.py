"""Lost races are counted by what kind of stock they were about."""

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


def test_a_row_that_is_lost_three_times_in_a_second_is_hot(lost, clock):
    classes = []
    for clock.now in (0.0, 0.3, 0.6):
        classes.append(lost.classify({A}))
    assert classes == ["cold", "cold", "hot"]


def test_it_cools_down_again(lost, clock):
    for clock.now in (0.0, 0.3, 0.6, 1.5):
        last = lost.classify({A})
    assert last == "cold"


def test_one_hot_row_makes_a_transaction_hot(lost):
    for _ in range(2):
        lost.classify({A})
    assert lost.classify({B}) == "cold"
    assert lost.classify({A, B}) == "hot"


def test_a_transaction_that_names_reservations_alone_has_no_class(lost):
    assert lost.classify(set()) == "none"


def test_what_is_remembered_is_bounded(lost, monkeypatch):
    monkeypatch.setattr(contention, "ROWS_MAX", 5)
    for number in range(100):
        lost.classify({(str(number), "main")})
    assert len(lost._lost) <= 5
