"""A short `make campaign`: every kind of fault, under load, against a durable server."""

import pytest

from tests.faults.campaign import run_campaign
from tests.faults.world import OTHER, POSTGRESQL_KILLS, SERVICE_KILLS

SEED = 20261123


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(SERVICE_KILLS, id="the service is killed"),
        pytest.param(POSTGRESQL_KILLS, id="PostgreSQL is killed"),
        pytest.param(OTHER, id="all other faults"),
    ],
)
async def test_under_faults_no_ack_is_lost_and_the_books_balance(kinds, tmp_path):
    figures = await run_campaign(tmp_path, SEED, list(kinds))
    assert set(figures.faults) == set(kinds)
    assert figures.acknowledged > 100
