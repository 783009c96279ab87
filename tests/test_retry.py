"""The retry policy: the attempts of a request, and the retries of all requests of a process."""

import pytest

from db.session.database import Conflict
from service import metrics
from service.domain.commands import SetStock
from service.domain.errors import Contention
from service.engine.ledger import Ledger
from service.engine.retry import RetryBudget, RetryPolicy
from tests.counting import counted

QUICK = {"wait_first_seconds": 0.0001, "wait_max_seconds": 0.0002}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def spendable(budget):
    count = 0
    while budget.spend():
        count += 1
    return count


def test_beyond_the_burst_a_tenth_of_the_requests_may_be_retried():
    budget = RetryBudget(RetryPolicy(burst_max=5, share_max=0.1), Clock())
    assert spendable(budget) == 5
    budget.earn(39)
    assert spendable(budget) == 3
    budget.earn(1)
    assert spendable(budget) == 1


def test_the_budget_never_exceeds_the_burst():
    clock = Clock()
    budget = RetryBudget(RetryPolicy(burst_max=5, spare_per_second=1.0), clock)
    budget.earn(10_000)
    clock.now = 1000.0
    assert spendable(budget) == 5


def test_a_quiet_process_may_retry_a_few_times_a_second():
    clock = Clock()
    budget = RetryBudget(RetryPolicy(burst_max=5, spare_per_second=2.0), clock)
    spendable(budget)
    clock.now = 1.5
    assert spendable(budget) == 3


class Loser:
    """A ledger that loses the race in every attempt."""

    def __init__(self, **policy):
        self.attempts = 0
        self.ledger = Ledger(None, None, RetryPolicy(**QUICK, **policy))
        self.ledger._attempt = self.attempt

    async def attempt(self, _commands, _more_wait, *, locked):
        self.attempts += 1
        raise Conflict("stock_changed")

    async def lose(self):
        with pytest.raises(Contention) as lost:
            await self.ledger.execute([SetStock("A", "main", 1, None, None, None)])
        return lost.value.fields["attempts"]


async def test_a_request_that_keeps_losing_its_race_fails_after_its_last_attempt():
    loser = Loser(attempts_max=4)
    assert (await loser.lose(), loser.attempts) == (4, 4)


async def test_when_the_budget_is_spent_a_lost_race_is_not_retried():
    loser = Loser(attempts_max=4, burst_max=3, spare_per_second=0.0)
    await loser.lose()
    assert (await loser.lose(), loser.attempts) == (1, 5)


async def test_a_process_whose_requests_all_fail_stops_retrying():
    """Failed requests add nothing to the budget, so an outage can't pay for its own retries."""
    loser = Loser(burst_max=1, spare_per_second=0.0, share_max=1.0)
    assert [await loser.lose() for _ in range(3)] == [2, 1, 1]


@pytest.mark.parametrize("counter", [metrics.CONFLICTS, metrics.RETRIES])
async def test_lost_races_and_retries_are_counted_by_kind_and_by_class_of_stock(counter):
    before = counted(counter)
    await Loser(attempts_max=6).lose()
    more = {labels: count - before.get(labels, 0) for labels, count in counted(counter).items()}
    hot = 4 if counter is metrics.CONFLICTS else 3  # the last loss is not followed by a retry
    assert more["stock_changed", "cold"] == 2
    assert more["stock_changed", "hot"] == hot
