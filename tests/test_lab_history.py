"""The linearizability checker finds planted violations and accepts correct histories."""

import random
from itertools import accumulate

from service.lab.history import Moved, Refused, check_counter


def take(called, answered, units=1):
    return Moved(-units, called, answered)


def test_takes_within_the_stock_are_linearizable():
    assert check_counter(2, [take(0, 1), take(2, 3)], []) == []


def test_a_planted_oversell_is_found():
    findings = check_counter(1, [take(0, 1), take(0, 1)], [])
    assert [finding.split(":")[0] for finding in findings] == ["oversold"]


def test_a_planted_stale_refusal_is_found():
    """At the time of the refusal, no unit had been sold and no purchase was in progress."""
    moves = [take(5, 6)]
    assert check_counter(1, moves, [Refused(1, 0, called=1, answered=2)])[0].startswith("stale")
    assert check_counter(1, moves, [Refused(1, 0, called=7, answered=8)]) == []
    assert check_counter(1, moves, [Refused(1, 0, called=1, answered=5.5)]) == []


def test_a_refusal_after_units_were_returned_is_stale():
    moves = [take(0, 1), Moved(1, 2, 3)]
    assert check_counter(1, moves, [Refused(1, 0, called=4, answered=5)])[0].startswith("stale")
    assert check_counter(1, moves, [Refused(1, 0, called=2.5, answered=5)]) == []


def test_a_refusal_that_reports_a_wrong_number_is_found():
    moves = [take(0, 1)]
    assert check_counter(5, moves, [Refused(9, 4, called=2, answered=3)]) == []
    assert check_counter(5, moves, [Refused(9, 3, called=2, answered=3)])[0].startswith("stale")


def test_a_refusal_of_available_units_is_found():
    assert check_counter(5, [], [Refused(5, 5, called=2, answered=3)])[0].startswith("stale")


def test_versions_that_contradict_real_time_are_found():
    assert check_counter(9, [take(2, 3), take(0, 1)], [])[0].startswith("out of order")
    assert check_counter(9, [take(0.5, 3), take(0, 1)], []) == []


def test_refusals_that_contradict_each_other_in_real_time_are_found():
    """Each refusal alone is possible, but the second was requested after the first was answered."""
    moves = [take(0, 9), Moved(1, 0, 9), take(0, 9)]
    sold_out, back = Refused(1, 0, 1, 2), Refused(2, 1, 3, 4)
    assert check_counter(1, moves, [sold_out, back]) == []
    assert check_counter(1, moves[:1], [sold_out]) == []
    assert check_counter(1, moves[:1], [sold_out, back])[0].startswith("stale")


def test_an_effect_without_an_answer_may_happen_at_any_time():
    assert check_counter(1, [Moved(-1, 0)], [Refused(1, 0, called=50, answered=51)]) == []


def serial_history(seed):
    """Moves and refusals in a serial order, each at a known moment of its interval."""
    source = random.Random(seed)
    initial = units = source.randint(0, 5)
    moves, refusals = [], []
    for moment in range(200):
        called, answered = moment - source.uniform(0, 20), moment + source.uniform(0, 20)
        wanted = source.randint(1, 4)
        if source.random() < 0.3:
            units += wanted
            moves.append(Moved(wanted, called, answered))
        elif wanted <= units:
            units -= wanted
            moves.append(Moved(-wanted, called, answered))
        else:
            refusals.append(Refused(wanted, units, called, answered))
    return initial, moves, refusals


def test_every_serial_history_is_linearizable():
    for seed in range(200):
        assert check_counter(*serial_history(seed)) == []


def test_faults_planted_in_a_serial_history_are_found():
    for seed in range(50):
        initial, moves, refusals = serial_history(seed)
        lowest = min(accumulate((move.delta for move in moves), initial=initial))
        oversold = [Moved(-(lowest + 1), -30, 300), *moves]
        assert any("oversold" in each for each in check_counter(initial, oversold, []))
        states = set(accumulate((move.delta for move in moves), initial=initial))
        stale = Refused(10**6, max(states) + 1, 0, 200)
        assert any("stale" in each for each in check_counter(initial, moves, [*refusals, stale]))
