"""Patroni, etcd and two nodes: acknowledged writes survive the loss of either node."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from tests.conftest import assert_books_balance
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.failover import kill_primaries
from tests.faults.processes import frozen
from tests.server import Server, running_server


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    with running_cluster() as made:
        await made.await_standby()
        await made.create_database()
        yield made


async def test_no_acknowledged_write_is_lost_with_the_primary(cluster, tmp_path):
    """PostgreSQL alone is killed once, and its whole node once."""
    figures = await kill_primaries(cluster, ["postgresql", "node"], tmp_path, seed=1)
    assert figures.acknowledged
    print(figures)


def ask(server: Server, seq: str) -> httpx.Response:
    body = {"seq": seq, "lines": [{"sku": "A", "quantity": 1}]}
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=15) as http:
        return http.post("/v1/reservations", json=body)


async def insist(server: Server, seq: str) -> httpx.Response:
    """Repeat the request until its answer is final."""
    async with asyncio.timeout(60):
        while (answer := await asyncio.to_thread(ask, server, seq)).status_code == 503:
            await asyncio.sleep(0.1)
    return answer


async def test_a_replay_acknowledges_nothing_that_the_standby_lacks(cluster):
    """If the primary is lost before the standby has the write, the retry writes it again."""
    await cluster.await_standby()
    primary = await cluster.primary()
    standby = next(node for node in cluster.nodes if node is not primary)
    await patiently(primary)
    seq = uuid.uuid4().hex
    with running_server(cluster.url) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as http:
            address, condition = "/v1/stock/A/main", {"If-None-Match": "*"}
            await http.put(address, json={"available": 10**9}, headers=condition)
        assert (await insist(server, f"{seq}-before")).status_code == 201
        with frozen(standby.processes):
            assert (await asyncio.to_thread(ask, server, seq)).status_code == 503
            assert await is_committed(primary, seq)
            assert (await asyncio.to_thread(ask, server, seq)).status_code == 503
            assert await relies_on_its_standby(primary)
            primary.kill()
        await cluster.await_primary(other_than=primary)
        assert (await insist(server, seq)).status_code in (200, 201)
        assert (await insist(server, seq)).headers["Idempotency-Replayed"] == "true"
    connection = await asyncpg.connect(cluster.url)
    effects = "SELECT count(*) FROM movement JOIN reservation ON id = reservation_id WHERE seq = $1"
    assert await connection.fetchval(effects, seq) == 1
    await connection.close()
    await assert_books_balance(cluster.url)


async def is_committed(primary, seq):
    """Whether the primary shows the row, although the standby does not have it.

    When the client's wait times out, asyncpg cancels the COMMIT, and PostgreSQL then stops waiting
    for the standby.
    """
    database = primary.url.rpartition("/")[0] + "/holdfast"
    connection = await asyncpg.connect(database)
    found = await connection.fetchval("SELECT true FROM reservation WHERE seq = $1", seq)
    await connection.close()
    return found


async def relies_on_its_standby(primary):
    connection = await asyncpg.connect(primary.url)
    names = await connection.fetchval("SELECT current_setting('synchronous_standby_names')")
    await connection.close()
    return bool(names)


async def patiently(primary):
    """Make the primary wait for its standby; otherwise it would go on without the standby."""
    connection = await asyncpg.connect(primary.url)
    await connection.execute("ALTER SYSTEM SET wal_sender_timeout = '60s'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
