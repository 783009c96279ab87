"""A batch equals its requests sent one after another."""

import random
import uuid

import pytest

from tests.conftest import fresh_database, running_service

BATCH = "/v1/reservations/batch"


def entry(seq, *lines, **more):
    listed = [{"sku": sku, "quantity": quantity} for sku, quantity in lines]
    return {"seq": seq, "lines": listed, **more}


async def send(service, *entries, **headers):
    return await service.client.post(BATCH, json={"reservations": entries}, headers=headers)


async def results(service, *entries):
    response = await send(service, *entries)
    assert response.status_code == 200, response.text
    return response.json()["results"]


async def test_each_entry_is_answered_in_order(service):
    await service.stock("A", 3)
    await service.reserve("old", ("A", 1))
    found = await results(
        service,
        entry("new", ("A", 2), hold_seconds=900),
        entry("old", ("A", 1)),
        entry("old", ("A", 2)),
        entry("short", ("A", 1)),
        entry("short", ("A", 1)),
        entry("unknown", ("B", 1)),
        entry("bad", ("A", 0)),
        entry("new", ("A", 2), hold_seconds=900),
    )
    assert [(r["status"], r["replayed"]) for r in found] == [
        (201, False), (200, True), (422, False), (409, False), (409, True), (404, False),
        (400, False), (200, True),
    ]  # fmt: skip
    assert found[0]["reservation"] == found[7]["reservation"]
    assert found[3]["problem"] == found[4]["problem"]
    assert found[6]["problem"]["errors"][0]["path"] == "lines[0].quantity"
    assert [r["problem"]["code"] for r in found[2:7]] == [
        "idempotency_mismatch", "insufficient_stock", "insufficient_stock", "unknown_sku",
        "invalid_request",
    ]  # fmt: skip
    assert await service.on_hand("A") == (0, 2)


@pytest.mark.parametrize(
    "bad",
    [
        None, 1, "x", [], {}, {"seq": "b"}, {"lines": [{"sku": "A", "quantity": 1}]},
        {"seq": "b", "lines": []}, entry("b", ("A", "1")), entry("b", ("A", True)),
        entry("b", ("A", 10**30)), entry("", ("A", 1)), entry("b", (".", 1)),
        entry("b", ("A", 1), nonsense=1), entry("b", ("A", 1), id="x"),
        entry("b", ("A", 1), hold_seconds=0), entry("b", *[("A", 1)] * 1001),
    ],
)  # fmt: skip
async def test_one_bad_entry_fails_alone(service, bad):
    await service.stock("A", 9)
    found = await results(service, entry("a", ("A", 1)), bad, entry("c", ("A", 1)))
    assert [r["status"] for r in found] == [201, 400, 201]
    problem = found[1]["problem"]
    assert (problem["code"], found[1]["replayed"]) == ("invalid_request", False)
    assert problem["errors"]
    assert await service.on_hand("A") == (7, 0)


async def test_an_entry_that_names_a_member_twice_fails_alone(service):
    await service.stock("A", 9)
    good = '{"seq": "%s", "lines": [{"sku": "A", "quantity": 1}]}'
    twice = '{"seq": "b", "lines": [{"sku": "A", "quantity": 1, "quantity": 2}]}'
    raw = f'{{"reservations": [{good % "a"}, {twice}, {good % "c"}]}}'
    response = await service.client.post(
        BATCH, content=raw, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 200, response.text
    found = response.json()["results"]
    assert [r["status"] for r in found] == [201, 400, 201]
    assert found[1]["problem"]["errors"][0]["path"] == "lines[0].quantity"


async def test_an_entry_that_names_another_source_fails_alone(service):
    await service.stock("A", 9)
    found = await results(
        service, entry("a", ("A", 1), source="shop-us"), entry("b", ("A", 1), source="shop-eu")
    )
    assert [r["status"] for r in found] == [403, 201]


async def test_the_idempotency_key_is_ignored(service):
    await service.stock("A", 9)
    without = {"lines": [{"sku": "A", "quantity": 1}]}
    response = await send(service, entry("a", ("A", 1)), without, **{"Idempotency-Key": "z"})
    assert [r["status"] for r in response.json()["results"]] == [201, 400]


@pytest.mark.parametrize("count", [0, 1001])
async def test_no_entries_or_too_many_are_400_for_the_whole_batch(service, count):
    await service.stock("A", 9)
    response = await send(service, *(entry(f"{n}", ("A", 1)) for n in range(count)))
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] == "reservations"
    assert await service.on_hand("A") == (9, 0)


async def test_more_than_10_000_lines_are_400_for_the_whole_batch(service):
    await service.stock("A", 100_000)
    most = [entry(f"{n}", *[("A", 1)] * 1000) for n in range(10)]
    response = await send(service, *most, entry("x", ("A", 1)))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert await service.on_hand("A") == (100_000, 0)
    assert [r["status"] for r in await results(service, *most)] == [201] * 10


async def test_a_batch_may_have_1000_entries(service):
    await service.stock("A", 600)
    found = await results(service, *(entry(f"{n}", ("A", 1)) for n in range(1000)))
    assert [r["status"] for r in found] == [201] * 600 + [409] * 400
    assert await service.on_hand("A") == (0, 0)


async def test_an_entry_with_too_large_a_sum_fails_alone(service):
    await service.stock("A", 1_000_000_000_000)
    await service.stock("B", 1)
    huge = entry("b", *[("A", 1_000_000)] * 1000, ("B", 2))
    huge["lines"].pop(0)
    found = await results(service, entry("a", ("A", 1)), huge, entry("c", ("B", 1)))
    assert [r["status"] for r in found] == [201, 409, 201]


async def test_a_batch_takes_back_overdue_holds_too(service_without_sweeper):
    service = service_without_sweeper
    await service.stock("A", 3)
    await service.reserve("1", ("A", 3), hold_seconds=900)
    await service.sql("UPDATE reservation SET expires_at = clock_timestamp()")
    found = await results(
        service, entry("a", ("A", 2)), entry("1", ("A", 3), hold_seconds=900), entry("b", ("A", 2))
    )
    assert [r["status"] for r in found] == [201, 200, 409]
    assert found[1]["reservation"]["state"] == "expired"
    assert found[2]["problem"]["shortages"][0]["available"] == 1


SKUS = ["A", "B", "C", "missing"]


def random_entries(seed):
    rng = random.Random(seed)
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(4)]
    sent = []
    for _ in range(60):
        if sent and rng.random() < 0.3:
            yield rng.choice(sent)
            continue
        lines = [(rng.choice(SKUS[:3]), rng.choice([1, 1, 2, 5])) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.1:
            lines.append((rng.choice(SKUS), rng.choice([0, 1, 999])))
        more = {}
        if rng.random() < 0.4:
            more["hold_seconds"] = rng.choice([900, 901])
        if rng.random() < 0.2:
            more["id"] = rng.choice([*ids, "no id"])
        if rng.random() < 0.1:
            more["source"] = rng.choice(["shop-eu", "shop-us"])
        sent.append(entry(f"s{rng.randint(0, 40)}", *lines, **more))
        yield sent[-1]


def comparable(value):
    """An answer without its timestamps and its address."""
    if isinstance(value, dict):
        moving = ("created_at", "updated_at", "expires_at", "instance", "request_id")
        return {name: comparable(item) for name, item in value.items() if name not in moving}
    return [comparable(item) for item in value] if isinstance(value, list) else value


async def one_by_one(service, entries):
    for item in entries:
        response = await service.client.post("/v1/reservations", json=item)
        replayed = response.headers.get("Idempotency-Replayed") == "true"
        kind = "reservation" if response.status_code < 300 else "problem"
        yield {"status": response.status_code, "replayed": replayed, kind: response.json()}


async def everything(service):
    """All reservations, stock rows and movements, in the order of the lists."""
    paths = ["/v1/reservations?limit=500", "/v1/stock"]
    paths += [f"/v1/stock/{sku}/main/movements?limit=500" for sku in SKUS[:3]]
    return [comparable((await service.client.get(path)).json()) for path in paths]


@pytest.mark.parametrize("seed", range(4))
async def test_a_batch_equals_its_requests_sent_one_after_another(service, postgres_url, seed):
    entries = list(random_entries(seed))
    async with (
        fresh_database(postgres_url) as second_url,
        running_service(second_url) as second,
    ):
        for each in (service, second):
            for sku in SKUS[:3]:
                await each.stock(sku, 30)
        together = await results(service, *entries)
        alone = [result async for result in one_by_one(second, entries)]
        assert {r["status"] for r in alone} > {200, 201, 409, 422}
        for sent, one, other in zip(entries, together, alone, strict=True):
            assert comparable(one) == comparable(other), sent
        assert await everything(service) == await everything(second)
