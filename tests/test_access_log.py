"""The access log: uses of admin keys, refusals, the bounds of both, and the time that it takes."""

import asyncio
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from db.queries import access_log as queries
from db.session.database import Database, StoreUnavailable
from service.engine import access_log
from service.engine.access_log import UNNAMED_USES, Access, AccessLog, Minute
from service.http.access.keys import digest
from tests.conftest import running_service
from tests.sessions import session

HOLD = {"lines": [{"sku": "A", "quantity": 1}], "hold_seconds": 900}
STOCK_ROW = "/v1/stock/{sku}/{location}"


async def entries(service, **query):
    """Return all entries of the access log, once those that are noted have been written."""
    await service.app.worker.access_log.write_all()
    found, cursor = [], None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = await service.client.get("/v1/access-log", params={"limit": 500, **query, **more})
        assert page.status_code == 200, page.text
        found += page.json()["items"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return found


def told(entry):
    return entry["method"], entry["route"], entry["status"], entry["count"]


async def key_id(service, headers):
    """Return the id of the key that these headers send."""
    found = await service.sql(
        "SELECT id FROM api_key WHERE digest = $1",
        digest(headers["Authorization"].removeprefix("Bearer ").encode()),
    )
    return str(found[0]["id"])


async def test_each_use_of_an_admin_key_on_stock_is_logged_with_its_key_and_its_status(service):
    await service.stock("A", 5)
    await service.client.get("/v1/stock/A/main", headers={"X-Request-Id": "mine"})
    await service.client.get("/v1/stock/SECRET-SKU/main?x=secret-query")
    found = await entries(service)
    assert [told(entry) for entry in found] == [
        ("PUT", STOCK_ROW, 201, 1), ("GET", STOCK_ROW, 200, 1), ("GET", STOCK_ROW, 404, 1),
    ]  # fmt: skip
    id_ = await key_id(service, service.client.headers)
    assert found[1]["request_id"] == "mine"
    assert len({entry["request_id"] for entry in found}) == 3
    for entry in found:
        assert (entry["key_id"], entry["source"]) == (id_, "shop-eu")
        assert entry["address"] == "127.0.0.1"
    assert "secret" not in str(found).lower()


async def test_a_key_without_the_scope_admin_is_not_logged_and_a_read_of_the_log_neither(service):
    headers = await service.key("shop-eu", "reserve", "read", "stock")
    await service.client.put(
        "/v1/stock/A/main", json={"available": 5}, headers={**headers, "If-None-Match": "*"}
    )
    for path in ("/v1/stock", "/v1/stock/A/main/movements", "/v1/reservations"):
        assert (await service.client.get(path, headers=headers)).status_code == 200
    await service.reserve("1", ("A", 1))
    assert await entries(service) == []
    assert await entries(service) == []


async def test_an_admins_uses_of_reservations_are_logged_only_if_another_source_made_them(service):
    await service.stock("A", 50)
    theirs = await service.key("shop-us", "reserve", "read")
    places = {}
    for source, headers in (("own", {}), ("other", theirs)):
        for name in ("held", "cancelled", "sold"):
            made = await service.client.post(
                "/v1/reservations", json={**HOLD, "seq": f"{source}-{name}"}, headers=headers
            )
            places[source, name] = made.headers["Location"]
    begun = len(await entries(service))

    async def use(source):
        client, held, sold = service.client, places[source, "held"], places[source, "sold"]
        await client.get(held)
        await client.get(held, headers={"If-None-Match": '"1"'})
        await client.post(f"{held}/extend", json={"hold_seconds": 60})
        await client.post(f"{places[source, 'cancelled']}/cancel")
        await client.post(f"{places[source, 'cancelled']}/confirm")
        await client.post(f"{sold}/confirm")
        for _ in range(2):
            refund = await client.post(f"{sold}/refunds", json={"seq": f"refund-{source}"})
        await client.get(refund.headers["Location"])
        await client.get(f"{sold}/refunds")
        await client.get(f"{sold}/movements")
        await client.get(f"/v1/reservations?seq={source}-held")

    await use("own")
    for path in ("", "/movements", "/refunds"):
        await service.client.get(f"/v1/reservations/{uuid.UUID(int=1)}{path}")
    assert len(await entries(service)) == begun
    await use("other")
    one = "/v1/reservations/{id}"
    assert [told(entry) for entry in (await entries(service))[begun:]] == [
        ("GET", one, 200, 1), ("GET", one, 304, 1), ("POST", f"{one}/extend", 200, 1),
        ("POST", f"{one}/cancel", 200, 1), ("POST", f"{one}/confirm", 409, 1),
        ("POST", f"{one}/confirm", 200, 1), ("POST", f"{one}/refunds", 201, 1),
        ("POST", f"{one}/refunds", 200, 1), ("GET", f"{one}/refunds/{{refund_id}}", 200, 1),
        ("GET", f"{one}/refunds", 200, 1), ("GET", f"{one}/movements", 200, 1),
        ("GET", "/v1/reservations", 200, 1),
    ]  # fmt: skip


async def test_refusals_are_counted_by_address_key_route_and_status(service, monkeypatch):
    monkeypatch.setattr(access_log.time, "time", lambda: 1_800_000_000.0)
    reader = await service.key("shop-eu", "read")
    for _ in range(3):
        refused = await service.client.get("/v1/stock", headers={"Authorization": "Bearer no"})
        assert refused.status_code == 401
    for _ in range(2):
        refused = await service.client.post("/v1/reservations", content=b"", headers=reader)
        assert refused.status_code == 403
        await service.app.worker.access_log.flush()
    found = {told(entry): entry for entry in await entries(service)}
    assert found.keys() == {("GET", "/v1/stock", 401, 3), ("POST", "/v1/reservations", 403, 2)}
    unknown, forbidden = sorted(found.values(), key=lambda entry: entry["status"])
    assert (unknown["key_id"], unknown["source"]) == (None, None)
    assert (forbidden["key_id"], forbidden["source"]) == (await key_id(service, reader), "shop-eu")


async def test_a_rate_limited_request_is_counted_with_its_key(database_url):
    async with running_service(database_url, rate_limit=1) as service:
        headers = await service.key("shop-eu", "read")
        statuses = [
            (await service.client.get("/v1/stock", headers=headers)).status_code for _ in range(9)
        ]
        refused = statuses.count(429)
        assert refused > 1
        await service.app.worker.access_log.write_all()
        rows = await service.sql("SELECT key_id, sum(count) FROM access_log GROUP BY key_id")
        assert [(str(id_), number) for id_, number in rows] == [
            (await key_id(service, headers), refused)
        ]


async def test_the_log_is_a_list_with_filters_and_a_cursor_for_admins_only(service):
    await service.stock("A", 5)
    other = await service.key("auditor", "admin")
    for _ in range(3):
        await service.client.get("/v1/stock", headers=other)
    await service.client.get("/v1/stock/B/main")
    everything = await entries(service)
    assert [entry["status"] for entry in everything] == [201, 200, 200, 200, 404]
    first = (await service.client.get("/v1/access-log?limit=2")).json()
    assert first["items"] == everything[:2]
    rest = await service.client.get(f"/v1/access-log?cursor={first['next_cursor']}")
    assert rest.json() == {"items": everything[2:], "next_cursor": None}
    assert await entries(service, source="auditor") == everything[1:4]
    assert await entries(service, key_id=await key_id(service, other)) == everything[1:4]
    assert await entries(service, status=404) == everything[4:]
    assert await entries(service, created_after=everything[3]["at"]) == everything[4:]
    assert await entries(service, created_before=everything[1]["at"]) == everything[:1]
    for query in ("key_id=1", "status=2xx", "status=99", "address=1", "cursor=x", "limit=0"):
        assert (await service.client.get(f"/v1/access-log?{query}")).status_code == 400, query
    reader = await service.key("shop-eu", "read", "stock", "reserve")
    assert (await service.client.get("/v1/access-log", headers=reader)).status_code == 403


async def test_the_page_of_an_admin_is_logged(service):
    await service.stock("A", 50)
    theirs = await service.key("shop-us", "reserve")
    made = await service.client.post("/v1/reservations", json={**HOLD, "seq": "1"}, headers=theirs)
    place = made.headers["Location"].removeprefix("/v1")
    own = (await service.reserve("1", ("A", 1))).headers["Location"].removeprefix("/v1")
    transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://holdfast") as browser:
        key = (await service.key("boss", "admin"))["Authorization"].removeprefix("Bearer ")
        await browser.post("/sign-in", data={"key": key})
        for path in ("/", place):
            assert (await browser.get(path)).status_code == 200
        begun = [told(entry) for entry in await entries(service, source="boss")]
        assert begun == [("GET", "/", 200, 1), ("GET", "/reservations/{id}", 200, 1)]
        key = service.client.headers["Authorization"].removeprefix("Bearer ")
        await browser.post("/sign-in", data={"key": key})
        before = len(await entries(service))
        await browser.get(own)
        assert len(await entries(service)) == before


async def test_an_entry_appears_without_any_further_request(service):
    await service.client.get("/v1/stock")
    async with asyncio.timeout(20):
        while not await service.sql("SELECT FROM access_log"):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def a_log(database_url, *, workers=1):
    database = Database(database_url, pool_size=3)
    try:
        yield AccessLog(database, workers=workers)
    finally:
        await database.close()


def use(number, address="10.0.0.1", status=200):
    return Access(uuid.UUID(int=number), "admin", address, "GET", "/v1/stock", status)


def refusal(address, status=401):
    return Access(None, None, address, "GET", "/v1/stock", status)


async def all_rows(log):
    async def read(connection):
        return await queries.entries(connection, limit=100_000)

    await log.write_all()
    return await log.database.read(read)


@pytest.mark.parametrize("workers", [1, 2, 64])
async def test_a_minute_has_at_most_a_thousand_rows_and_no_request_is_lost(
    database_url, monkeypatch, workers
):
    monkeypatch.setattr(access_log.time, "time", lambda: 1_800_000_000.0)
    written = {}
    for _ in range(min(workers, 3)):
        async with a_log(database_url, workers=workers) as log:
            for number in range(700):
                log.note_use(use(number % 5), "r")
                log.note_use(use(number), "r")
                log.note_refusal(refusal(f"10.0.{number // 256}.{number % 256}", 401))
                log.note_refusal(refusal(f"10.1.{number // 256}.{number % 256}", 403))
            written = {row.id: row for row in await all_rows(log)}
    assert sum(row.count for row in written.values()) == 2_800 * min(workers, 3)
    assert len(written) <= 1_000 // workers * min(workers, 3)
    nameless = [row for row in written.values() if row.address is None]
    assert {row.status for row in nameless} == {None, 401, 403}
    assert all(row.request_id is None for row in written.values() if row.count > 1)
    singles = [row for row in written.values() if row.request_id == "r"]
    assert len(singles) > 300 // workers


async def test_a_flood_of_refusals_does_not_hide_the_uses_of_admin_keys(database_url, monkeypatch):
    monkeypatch.setattr(access_log.time, "time", lambda: 1_800_000_000.0)
    async with a_log(database_url) as log:
        for number in range(3_000):
            log.note_refusal(refusal(str(number)))
        for number in range(100):
            log.note_use(use(number), "r")
        rows = await all_rows(log)
    assert sum(row.request_id == "r" for row in rows) == 100


def test_each_kind_keeps_a_quarter_of_the_rows_of_a_minute():
    for is_first in (False, True):
        minute = Minute(1, 1_000)

        def identities(is_refusal):
            for number in range(2_000):
                yield access_log.Identity(1, is_refusal, use(number))

        first = sum(map(minute.takes_counted, identities(is_first)))
        second = sum(map(minute.takes_counted, identities(not is_first)))
        assert (first, second) == (747, 249)


async def test_workers_add_to_the_same_row_and_a_new_minute_begins_another_one(
    database_url, monkeypatch
):
    now = 1_800_000_000.0
    monkeypatch.setattr(access_log.time, "time", lambda: now)
    async with a_log(database_url) as one, a_log(database_url) as two:
        for log in (one, two, one):
            log.note_refusal(refusal("10.0.0.1"))
            await log.flush()
        now += 60
        one.note_refusal(refusal("10.0.0.1"))
        assert [row.count for row in await all_rows(one)] == [3, 1]


async def test_entries_stay_while_the_database_is_unreachable_and_are_written_once(
    database_url, monkeypatch
):
    monkeypatch.setattr(access_log.time, "time", lambda: 1_800_000_000.0)
    monkeypatch.setattr(access_log, "PENDING_MAX", 50)
    async with a_log(database_url) as log:
        written = queries.write

        async def fail(connection, rows):
            await written(connection, rows)
            raise StoreUnavailable("lost")

        monkeypatch.setattr(queries, "write", fail)
        for number in range(200):
            log.note_use(use(1), str(number))
            log.note_refusal(refusal(str(number)))
            if number % 20 == 0:
                with pytest.raises(StoreUnavailable):
                    await log.flush()
        assert log._pending == 52
        monkeypatch.setattr(queries, "write", written)
        rows = await all_rows(log)
    assert sum(row.count for row in rows) == 400
    assert len(rows) == 52
    merged = [row for row in rows if row.count > 1]
    assert {tuple(row[2:8]) for row in merged} == {
        tuple(UNNAMED_USES), tuple(UNNAMED_USES._replace(status=401)),
    }  # fmt: skip


async def test_a_blocked_access_log_delays_no_request(service):
    """The writes wait for a lock; requests that note uses are answered meanwhile."""
    await service.stock("A", 100)
    await service.app.worker.access_log.write_all()
    async with asyncio.timeout(60):
        async with session(service.database) as blocker:
            await blocker.connection.exec_driver_sql("LOCK TABLE access_log IN SHARE MODE")
            waits = asyncio.create_task(service.app.worker.access_log.flush())
            for _ in range(50):
                assert (await service.client.get("/v1/stock/A/main")).status_code == 200
            assert not (await service.sql("SELECT FROM access_log WHERE method = 'GET'"))
            waits.cancel()
        assert [told(entry) for entry in await entries(service, status=200)] == [
            ("GET", STOCK_ROW, 200, 1)
        ] * 50


async def test_rows_are_deleted_after_90_days_in_portions(database_url, monkeypatch):
    monkeypatch.setattr(access_log, "DELETED_MAX", 10)
    monkeypatch.setattr(access_log, "INTERVAL_SECONDS", 0.0)
    async with a_log(database_url) as log:
        now = datetime.now(UTC)
        rows = [
            queries.Entry(uuid.uuid4(), now - timedelta(days=days), *use(days), None, 1, False)
            for days in [*range(60, 90), *range(91, 126)]
        ]

        async def write(transaction):
            await queries.write(transaction.connection, rows)

        await log.database.transact(write)
        running = asyncio.create_task(log.run())
        async with asyncio.timeout(20):
            while len(found := await all_rows(log)) > 30:
                await asyncio.sleep(0.01)
        running.cancel()
    assert min(row.at for row in found) == now - timedelta(days=89)


async def test_the_entries_of_the_last_moment_are_written_when_the_service_stops(database_url):
    async with running_service(database_url) as service:
        for _ in range(1_500):
            service.app.worker.access_log.note_refusal(refusal(str(uuid.uuid4())))
    async with a_log(database_url) as log:
        assert sum(row.count for row in await all_rows(log)) == 1_500
