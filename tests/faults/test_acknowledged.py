"""The checks of the campaign find planted errors."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.acknowledged import Ack, AcknowledgedLog


@pytest.fixture
def log(tmp_path: Path):
    made = AcknowledgedLog(tmp_path / "acknowledged")
    yield made
    made.close()


async def test_an_acknowledged_write_that_is_stored_does_not_count_as_lost(service, log):
    await service.stock("A", 10)
    body = (await service.reserve("1", ("A", 1), hold_seconds=60)).json()
    log.add(Ack(body["id"], 1, "held"))
    body = (await service.client.post(f"/v1/reservations/{body['id']}/confirm")).json()
    log.add(Ack(body["id"], 2, "confirmed"))
    assert await log.lost(service.url) == []
    assert await log.contradicted(service.url) == []


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(lambda id_: Ack(str(uuid4()), 1, "confirmed"), id="a whole reservation"),
        pytest.param(lambda id_: Ack(id_, 2, "confirmed"), id="a later step"),
        pytest.param(lambda id_: Ack(id_, 1, "held", str(uuid4())), id="a refund"),
    ],
)
async def test_a_lost_ack_is_found(service, log, planted):
    await service.stock("A", 10)
    id_ = (await service.reserve("1", ("A", 1), hold_seconds=60)).json()["id"]
    ack = planted(id_)
    log.add(ack)
    assert await log.lost(service.url) == [ack]


async def test_a_step_that_left_no_movement_is_found(service, log):
    await service.stock("A", 10)
    id_ = (await service.reserve("1", ("A", 1))).json()["id"]
    log.add(Ack(id_, 1, "confirmed"))
    await service.sql("UPDATE movement SET reservation_version = 9 WHERE kind = 'reserve'")
    assert len(await log.lost(service.url)) == 1
    await service.sql("UPDATE movement SET reservation_version = 1 WHERE kind = 'reserve'")


async def test_a_reservation_whose_state_differs_from_its_answer_is_found(service, log):
    await service.stock("A", 10)
    id_ = (await service.reserve("1", ("A", 1), hold_seconds=60)).json()["id"]
    log.add(Ack(id_, 1, "cancelled"))
    assert [state for _, state in await log.contradicted(service.url)] == ["held"]
