"""The database's clock steps by an hour: holds expire early or late, and nothing is oversold.

A function of the same name, earlier on the search path, replaces the clock of PostgreSQL.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.conftest import Service, running_service
from tests.roles import as_superuser

CLOCK = """
    CREATE SCHEMA skewed;
    CREATE TABLE skewed.step (by interval);
    INSERT INTO skewed.step VALUES ('0');
    CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT pg_catalog.clock_timestamp() + by FROM skewed.step';
    GRANT USAGE ON SCHEMA skewed TO PUBLIC;
    GRANT SELECT ON skewed.step TO PUBLIC;
"""


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service whose clock can be set."""
    connection = await asyncpg.connect(as_superuser(database_url))
    await connection.execute(CLOCK)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET search_path = skewed, pg_catalog, public")
    await connection.close()
    async with running_service(database_url) as started:
        await started.stock("A", 10)
        yield started


async def step(service: Service, by: str) -> None:
    """Set the clock to the true time plus an offset."""
    await service.sql("UPDATE skewed.step SET by = $1::text::interval", by)


async def hold(service: Service, seq: str, seconds: int = 600) -> str:
    response = await service.reserve(seq, ("A", 1), hold_seconds=seconds)
    assert response.status_code == 201
    return response.headers["location"]


async def state(service: Service, address: str) -> str:
    return (await service.client.get(address)).json()["state"]


async def test_the_service_reads_the_replaced_clock(service):
    await step(service, "1 year")
    address = await hold(service, "1")
    created = (await service.client.get(address)).json()["created_at"]
    year = await service.sql("SELECT extract(year FROM now() + interval '1 year')::int AS year")
    assert created.startswith(str(year[0]["year"]))


async def test_a_step_forward_expires_holds_early_and_gives_their_units_back_once(service):
    addresses = [await hold(service, str(n)) for n in range(3)]
    await step(service, "1 hour")
    async with asyncio.timeout(10):
        while await service.on_hand("A") != (10, 0):
            await asyncio.sleep(0.05)
    for address in addresses:
        assert await state(service, address) == "expired"
        assert (await service.client.post(f"{address}/confirm")).status_code == 409


async def test_a_step_back_expires_holds_late_and_they_can_be_confirmed_until_then(service):
    first, second = await hold(service, "1", 1), await hold(service, "2", 1)
    await step(service, "-1 hour")
    await service.sql("SELECT pg_sleep(1.1)")
    assert await state(service, first) == "held"
    assert (await service.client.post(f"{first}/confirm")).status_code == 200
    assert await service.on_hand("A") == (8, 1)
    await step(service, "0")
    async with asyncio.timeout(10):
        while await state(service, second) == "held":
            await asyncio.sleep(0.05)
    assert (await service.client.post(f"{second}/confirm")).status_code == 409
    assert await service.on_hand("A") == (9, 0)


async def test_a_clock_that_jumps_back_and_forth_under_load_never_oversells(service):
    """Each unit is in one hold at a time, whatever the clock says."""

    async def shop(number: int) -> int:
        sold = 0
        for n in range(12):
            response = await service.reserve(f"{number}-{n}", ("A", 1), hold_seconds=600)
            if response.status_code != 201:
                continue
            answer = await service.client.post(f"{response.headers['location']}/confirm")
            sold += answer.status_code == 200
        return sold

    async def jump() -> None:
        for by in ("1 hour", "-1 hour", "0", "-1 hour", "1 hour", "0") * 5:
            await step(service, by)

    *sold, _ = await asyncio.gather(*(shop(number) for number in range(8)), jump())
    assert sum(sold) <= 10
    available, held = await service.on_hand("A")
    assert available + held + sum(sold) == 10
