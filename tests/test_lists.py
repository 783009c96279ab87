"""Lists, filters, cursors, limits and conditional reads."""

import asyncio
import uuid

import pytest

from db.queries import lists

LISTS = ["/v1/reservations", "/v1/stock", "/v1/stock/A", "/v1/stock/A/main/movements"]


async def listed(service, path, **params):
    response = await service.client.get(path, params=params)
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"items", "next_cursor"}
    return response.json()["items"]


async def seqs(service, **params):
    return [item["seq"] for item in await listed(service, "/v1/reservations", **params)]


async def pages(service, path, limit, between=None):
    """Return the items of each page; call `between` once, after the first page."""
    cursor, found = None, []
    while True:
        params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = (await service.client.get(path, params=params)).json()
        found.append(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found
        if between is not None:
            await between()
            between = None


async def test_reservations_are_listed_in_order_of_creation(service):
    await service.stock("A", 100)
    for n in range(60):
        await service.reserve(f"{n}", ("A", 1 if n % 10 else 1000))
    every = [item["seq"] for page in await pages(service, "/v1/reservations", 7) for item in page]
    assert every == [f"{n}" for n in range(60)]
    assert len(await seqs(service)) == 50
    assert len(await seqs(service, limit=500)) == 60


async def test_a_list_is_stable_while_rows_are_added(service):
    await service.stock("A", 100)
    for n in range(6):
        last = await service.reserve(f"{n}", ("A", 1))

    async def add():
        for n in range(6, 9):
            await service.reserve(f"{n}", ("A", 1))
        refunded = await service.client.post(
            f"{last.headers['Location']}/refunds", json={"seq": "1"}
        )
        assert refunded.status_code == 201

    found = await pages(service, "/v1/reservations", 2, add)
    assert [item["seq"] for page in found for item in page] == [f"{n}" for n in range(9)]


async def test_a_full_last_page_has_no_cursor(service):
    await service.stock("A", 100)
    for n in range(4):
        await service.reserve(f"{n}", ("A", 1))
    assert [len(page) for page in await pages(service, "/v1/reservations", 2)] == [2, 2]


async def test_a_cursor_continues_a_filtered_list(service):
    await service.stock("A", 100)
    await service.stock("B", 100)
    for n in range(6):
        await service.reserve(f"{n}", ("AB"[n % 2], 1))
    first = (await service.client.get("/v1/reservations?sku=B&limit=2")).json()
    rest = await seqs(service, sku="B", cursor=first["next_cursor"])
    assert [item["seq"] for item in first["items"]] + rest == ["1", "3", "5"]


async def test_reservations_are_filtered(service):
    await service.stock("A", 100)
    await service.stock("B", 100)
    await service.reserve("sold", ("A", 1))
    await service.reserve("held", ("A", 1), ("B", 1), hold_seconds=900)
    await service.reserve("short", ("B", 1000))
    other = await service.key("shop-us", "reserve")
    body = {"seq": "sold", "lines": [{"sku": "A", "quantity": 1}]}
    await service.client.post("/v1/reservations", json=body, headers=other)
    assert await seqs(service) == ["sold", "held", "short", "sold"]
    assert await seqs(service, source="shop-eu") == ["sold", "held", "short"]
    assert await seqs(service, source="unknown") == []
    assert await seqs(service, seq="sold") == ["sold", "sold"]
    assert await seqs(service, seq="sold", source="shop-us") == ["sold"]
    assert await seqs(service, sku="B") == ["held", "short"]
    assert await seqs(service, sku="b") == []
    for state, found in (("held", ["held"]), ("confirmed", ["sold"] * 2), ("rejected", ["short"])):
        assert await seqs(service, state=state) == found
    assert await seqs(service, state="expired") == []


async def test_created_after_and_before_are_exclusive(service):
    await service.stock("A", 100)
    moments = [(await service.reserve(f"{n}", ("A", 1))).json()["created_at"] for n in range(3)]
    assert await seqs(service, created_after=moments[0]) == ["1", "2"]
    assert await seqs(service, created_before=moments[2]) == ["0", "1"]
    assert await seqs(service, created_after=moments[0], created_before=moments[2]) == ["1"]
    assert await seqs(service, created_after="2000-01-01T00:00:00+02:00") == ["0", "1", "2"]


async def test_stock_is_filtered(service):
    await service.stock("A1", 5, low_stock_at=5)
    await service.stock("A1", 5, location="north", low_stock_at=4)
    await service.stock("A2", 5)
    await service.stock("a_3", 5)

    async def keys(**params):
        items = await listed(service, "/v1/stock", **params)
        return [f"{item['sku']}@{item['location']}" for item in items]

    assert await keys() == ["A1@main", "A1@north", "A2@main", "a_3@main"]
    assert await keys(sku_prefix="A") == ["A1@main", "A1@north", "A2@main"]
    assert await keys(sku_prefix="a_") == ["a_3@main"]
    assert await keys(sku_prefix="_") == await keys(sku_prefix="%") == []
    assert await keys(location="north") == ["A1@north"]
    assert await keys(low="true") == ["A1@main"]
    assert await keys(low="true", location="north") == []
    sku = [item["location"] for item in await listed(service, "/v1/stock/A1")]
    assert sku == ["main", "north"]


@pytest.mark.parametrize("path", ["/v1/stock", "/v1/stock/A", "/v1/stock/A/main/movements"])
async def test_every_list_of_stock_is_paged_and_stable(service, path):
    for n in range(5):
        await service.stock("A", 100, location="main" if n == 0 else f"l{n}")
        await service.reserve(f"{n}", ("A", 1))
    whole = await listed(service, path)

    async def add():
        await service.stock("A", 100, location="new")
        await service.stock("0", 100)
        await service.reserve("new", ("A", 1))

    found = [item for page in await pages(service, path, 2, add) for item in page]
    stable = ("sku", "location", "kind", "available_delta")
    keys = [[item.get(name) for name in stable] for item in found]
    assert keys[: len(whole)] == [[item.get(name) for name in stable] for item in whole]
    assert len(keys) > len(whole)
    assert len({tuple(map(str, item.values())) for item in found}) == len(found)


async def test_a_reservation_s_movements_and_refunds_are_paged(service):
    for sku in "ABCDE":
        await service.stock(sku, 10)
    response = await service.reserve("1", *((sku, 2) for sku in "ABCDE"), hold_seconds=9)
    address = response.headers["Location"]
    await service.client.post(f"{address}/confirm")
    for n, sku in enumerate("ABCDE"):
        lines = [{"sku": sku, "quantity": 1}]
        await service.client.post(f"{address}/refunds", json={"seq": f"{n}", "lines": lines})
    moved = [m for page in await pages(service, f"{address}/movements", 4) for m in page]
    assert moved == await listed(service, f"{address}/movements")
    assert [(m["kind"], m["sku"]) for m in moved] == [
        (kind, sku) for kind in ("reserve", "confirm", "refund") for sku in "ABCDE"
    ]
    given = [r["seq"] for page in await pages(service, f"{address}/refunds", 2) for r in page]
    assert given == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("path", LISTS)
async def test_an_illegal_limit_is_400(service, path):
    await service.stock("A", 1)
    for limit in ("0", "501", "-1", "1.0", "", "x", "+5", " 5", "1e2", "9" * 30):
        response = await service.client.get(path, params={"limit": limit})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
        assert response.json()["errors"][0]["path"] == "limit"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "HELD"), ("created_after", "yesterday"), ("created_after", "2026-11-22"),
        ("created_before", "2026-11-22T19:20:00"), ("created_before", "0001-01-01T00:00:00+23:59"),
        ("sku", "\x00"), ("nonsense", "1"), ("state", ""), ("created_after", ""),
    ],
)  # fmt: skip
async def test_an_illegal_filter_is_400(service, name, value):
    response = await service.client.get("/v1/reservations", params={name: value})
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] == name


async def test_a_parameter_that_is_given_twice_is_400(service):
    response = await service.client.get("/v1/reservations?limit=1&limit=2")
    assert response.status_code == 400


async def test_get_answers_304_when_the_client_has_the_current_version(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 2))).headers["Location"]
    refund = await service.client.post(
        f"{address}/refunds", json={"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}
    )
    for path in (address, "/v1/stock/A/main", refund.headers["Location"]):
        tag = (await service.client.get(path)).headers["ETag"]
        for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            response = await service.client.get(path, headers={"If-None-Match": known})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["ETag"] == tag
        other = await service.client.get(path, headers={"If-None-Match": '"77"'})
        assert (other.status_code, other.headers["ETag"]) == (200, tag)


async def test_the_etag_changes_with_the_resource(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 2), hold_seconds=900)).headers["Location"]
    for path in (address, "/v1/stock/A/main"):
        before = (await service.client.get(path)).headers["ETag"]
        await service.client.post(f"{address}/extend", json={"hold_seconds": 900})
        await service.reserve(path, ("A", 1))
        after = await service.client.get(path, headers={"If-None-Match": before})
        assert after.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/reservations/{uuid.UUID(int=1)}", f"/v1/reservations/{uuid.UUID(int=1)}/movements",
        f"/v1/reservations/{uuid.UUID(int=1)}/refunds", "/v1/reservations/no-uuid", "/v1/nowhere",
        f"/v1/reservations/{uuid.UUID(int=1)}/refunds/{uuid.UUID(int=2)}", "/v1/stock/B",
        "/v1/stock/B/main", "/v1/stock/A/north", "/v1/stock/B/main/movements", "/problems/no",
        "/v1/reservations/" + "-" * 36,
    ],
)  # fmt: skip
async def test_a_resource_that_does_not_exist_is_404(service, path):
    await service.stock("A", 1)
    response = await service.client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_rows_created_and_changed_in_one_transaction_are_listed_in_order_of_creation(service):
    created = {"If-None-Match": "*"}
    reserve = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}
    await asyncio.gather(
        service.client.put("/v1/stock/A/main", json={"available": 5}, headers=created),
        service.client.put("/v1/stock/B/main", json={"available": 5}, headers=created),
        service.client.post("/v1/reservations", json=reserve),
    )
    items = (await service.client.get("/v1/stock")).json()["items"]
    assert [item["sku"] for item in items] == ["A", "B"]


async def test_a_page_of_long_reservations_ends_early_and_the_list_is_complete(
    service, monkeypatch
):
    monkeypatch.setattr(lists, "PAGE_LINES_MAX", 10)
    skus = [f"S{number:02}" for number in range(12)]
    for sku in skus:
        await service.stock(sku, 100)
    lengths = [3, 4, 3, 1, 12, 10, 9, 2]
    for number, length in enumerate(lengths):
        await service.reserve(f"{number}", *((sku, 1) for sku in skus[:length]))
    found = await pages(service, "/v1/reservations", 500)
    assert [[int(item["seq"]) for item in page] for page in found] == [
        [0, 1, 2], [3], [4], [5], [6], [7]
    ]  # fmt: skip
    assert [len(item["lines"]) for page in found for item in page] == lengths
