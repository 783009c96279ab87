"""Stock over HTTP: set, adjust and delete."""

import asyncio

import pytest

CREATE = {"If-None-Match": "*"}


async def put(service, available, headers, sku="A", **more):
    body = {"available": available, **more}
    return await service.client.put(f"/v1/stock/{sku}/main", json=body, headers=headers)


async def adjust(service, seq, delta, reason="count", sku="A", **more):
    body = {"seq": seq, "delta": delta, "reason": reason, **more}
    return await service.client.post(f"/v1/stock/{sku}/main/adjustments", json=body)


async def movements(service, sku="A"):
    items = (await service.client.get(f"/v1/stock/{sku}/main/movements")).json()["items"]
    return [(m["kind"], m["version"], m["available_delta"], m["held_delta"]) for m in items]


async def test_a_row_is_created_at_version_1(service):
    response = await put(service, 10, CREATE, name="White heart", low_stock_at=2)
    body = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == "/v1/stock/A/main"
    assert response.headers["ETag"] == '"1"'
    expected = {
        "sku": "A", "location": "main", "name": "White heart", "available": 10, "held": 0,
        "on_hand": 10, "low_stock_at": 2, "version": 1,
    }  # fmt: skip
    assert {name: body[name] for name in expected} == expected
    assert body == (await service.client.get("/v1/stock/A/main")).json()


async def test_if_none_match_on_a_row_that_exists_is_412(service):
    await service.stock("A", 10)
    response = await put(service, 5, CREATE)
    assert (response.status_code, response.json()["code"]) == (412, "version_mismatch")
    assert response.json()["current"] == 1
    assert await service.on_hand("A") == (10, 0)


async def test_if_match_replaces_a_row_only_at_that_version(service):
    await service.stock("A", 10, name="old", low_stock_at=1)
    response = await put(service, 5, {"If-Match": '"1"'})
    body = response.json()
    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')
    assert (body["available"], body["version"], body["name"]) == (5, 2, None)
    stale = await put(service, 7, {"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["current"]) == (412, 2)
    ahead = await put(service, 7, {"If-Match": '"3"'})
    assert (ahead.status_code, ahead.json()["current"]) == (412, 2)
    assert await service.on_hand("A") == (5, 0)


async def test_if_match_on_a_missing_row_is_412_with_current_null(service):
    never = await put(service, 5, {"If-Match": '"1"'})
    assert (never.status_code, never.json()["current"]) == (412, None)
    await service.stock("B", 1)
    await service.client.delete("/v1/stock/B/main")
    gone = await put(service, 5, {"If-Match": '"2"'}, sku="B")
    assert (gone.status_code, gone.json()["current"]) == (412, None)


async def test_a_put_without_a_precondition_is_428(service):
    for _ in range(2):
        response = await put(service, 5, {})
        assert (response.status_code, response.json()["code"]) == (428, "precondition_required")
        await put(service, 5, CREATE)


@pytest.mark.parametrize(
    "headers",
    [
        {"If-None-Match": "*", "If-Match": '"1"'},
        {"If-Match": "1"},
        {"If-Match": '"0"'},
        {"If-Match": '"x"'},
        {"If-Match": '"99999999999999999999"'},
        {"If-None-Match": '"1"'},
    ],
)
async def test_invalid_preconditions_are_400(service, headers):
    response = await put(service, 5, headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.json()["errors"][0]["path"] in headers


async def test_held_units_stay_held_when_available_is_set(service):
    await service.stock("A", 10)
    await service.reserve("1", ("A", 4), hold_seconds=900)
    response = await put(service, 3, {"If-Match": '"2"'})
    assert (response.json()["available"], response.json()["held"]) == (3, 4)
    assert response.json()["on_hand"] == 7
    assert (await movements(service))[-1] == ("set", 3, -3, 0)


async def test_every_change_raises_the_version_by_one_and_writes_a_movement(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 4), ("A", 1), hold_seconds=9)).headers["Location"]
    body = {"lines": [{"sku": "A", "quantity": 3}]}
    await service.client.post(f"{address}/confirm", json=body)
    await service.client.post(f"{address}/refunds", json={"seq": "1"})
    await adjust(service, "1", -4)
    await put(service, 6, {"If-Match": '"5"'})
    await service.client.delete("/v1/stock/A/main")
    assert await movements(service) == [
        ("set", 1, 10, 0),
        ("reserve", 2, -5, 5),
        ("confirm", 3, 2, -5),
        ("refund", 4, 3, 0),
        ("adjust", 5, -4, 0),
        ("set", 6, 0, 0),
        ("delete", 7, -6, 0),
    ]


async def test_the_movements_of_a_reservation_have_its_id(service):
    await service.stock("A", 10)
    response = await service.reserve("1", ("A", 4))
    items = (await service.client.get("/v1/stock/A/main/movements")).json()["items"]
    assert [m["reservation_id"] for m in items] == [None, response.json()["id"]]


async def test_a_second_delete_changes_nothing(service):
    await service.stock("A", 10)
    never = await service.client.delete("/v1/stock/never/main")
    answers = [await service.client.delete("/v1/stock/A/main") for _ in range(2)]
    assert [r.status_code for r in (never, *answers)] == [204] * 3
    assert answers[0].content == b""
    assert (await service.client.get("/v1/stock/A/main")).status_code == 404
    assert (await service.client.get("/v1/stock/A")).status_code == 404
    assert await movements(service) == [("set", 1, 10, 0), ("delete", 2, -10, 0)]


async def test_a_row_that_is_created_again_continues_from_its_old_version(service):
    await service.stock("A", 10)
    await service.client.delete("/v1/stock/A/main")
    response = await put(service, 4, CREATE)
    assert (response.status_code, response.json()["version"]) == (201, 3)
    assert await movements(service) == [("set", 1, 10, 0), ("delete", 2, -10, 0), ("set", 3, 4, 0)]
    assert (await put(service, 4, {"If-Match": '"1"'})).status_code == 412


async def test_a_row_with_held_units_is_not_deleted(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 1), hold_seconds=900)).headers["Location"]
    response = await service.client.delete("/v1/stock/A/main")
    assert (response.status_code, response.json()["code"]) == (409, "stock_in_use")
    await service.client.post(f"{address}/confirm")
    assert (await service.client.delete("/v1/stock/A/main")).status_code == 204


async def test_a_deleted_row_is_an_unknown_sku_to_all_requests(service):
    await service.stock("A", 10)
    await service.client.delete("/v1/stock/A/main")
    reserved, adjusted = await service.reserve("1", ("A", 1)), await adjust(service, "1", 1)
    assert [r.json()["code"] for r in (reserved, adjusted)] == ["unknown_sku"] * 2
    assert adjusted.json()["unknown"] == [{"sku": "A", "location": "main"}]


async def test_a_repeated_adjustment_changes_available_once(service):
    await service.stock("A", 10)
    first, again = await adjust(service, "1", -3), await adjust(service, "1", -3)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert first.json() == again.json()
    expected = {"source": "shop-eu", "seq": "1", "sku": "A", "location": "main", "delta": -3}
    assert {name: first.json()[name] for name in expected} == expected
    assert "Location" in first.headers
    assert await service.on_hand("A") == (7, 0)


async def test_64_equal_adjustments_at_once_have_one_effect(service):
    await service.stock("A", 100)
    answers = await asyncio.gather(*(adjust(service, "1", -3) for _ in range(64)))
    assert sorted(r.status_code for r in answers) == [200] * 63 + [201]
    assert await service.on_hand("A") == (97, 0)


@pytest.mark.parametrize(
    ("change", "field", "stored", "sent"),
    [
        ({"sku": "B"}, "sku", "A", "B"),
        ({"delta": 4}, "delta", -3, 4),
        ({"reason": "other"}, "reason", "count", "other"),
        ({"delta": 4, "reason": "other"}, "delta", -3, 4),
    ],
)
async def test_another_adjustment_with_a_used_seq_is_422(service, change, field, stored, sent):
    await service.stock("A", 10)
    await service.stock("B", 10)
    await adjust(service, "1", -3)
    response = await adjust(service, "1", **{"delta": -3, **change})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "idempotency_mismatch")
    assert (problem["field"], problem["stored"], problem["sent"]) == (field, stored, sent)
    assert (await service.on_hand("A"), await service.on_hand("B")) == ((7, 0), (10, 0))


async def test_an_adjustment_below_zero_is_refused_and_the_refusal_is_not_stored(service):
    await service.stock("A", 3)
    refused = await adjust(service, "1", -4)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "insufficient_stock")
    assert problem["shortages"] == [
        {"sku": "A", "location": "main", "requested": 4, "available": 3}
    ]
    assert (problem["same_seq"], problem["retryable"]) == (True, False)
    await put(service, 9, {"If-Match": '"1"'})
    assert (await adjust(service, "1", -4)).status_code == 201


async def test_an_adjustment_of_another_version_is_412_but_its_replay_is_not(service):
    await service.stock("A", 10)
    stale = await adjust(service, "1", 1, expected_version=2)
    assert (stale.status_code, stale.json()["current"]) == (412, 1)
    assert (await adjust(service, "1", 1, expected_version=1)).status_code == 201
    assert (await adjust(service, "1", 1, expected_version=1)).status_code == 200


async def test_an_adjustment_of_an_unknown_sku_is_404_and_the_answer_is_not_stored(service):
    refused = await adjust(service, "1", 1)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_sku")
    await service.stock("A", 1)
    assert (await adjust(service, "1", 1)).status_code == 201


async def test_no_request_can_exceed_the_upper_bound_of_available(service):
    limit = 1_000_000_000_000
    await service.stock("A", limit)
    assert (await put(service, limit + 1, {"If-Match": '"1"'})).status_code == 400
    assert (await adjust(service, "1", 1)).status_code == 400
    assert await service.on_hand("A") == (limit, 0)


async def test_of_many_creations_and_replacements_one_wins(service):
    created = await asyncio.gather(*(put(service, n, CREATE) for n in range(8)))
    assert sorted(r.status_code for r in created) == [201] + [412] * 7
    replaced = await asyncio.gather(*(put(service, n, {"If-Match": '"1"'}) for n in range(8)))
    assert sorted(r.status_code for r in replaced) == [200] + [412] * 7
    winner = next(r for r in replaced if r.status_code == 200)
    assert (await service.client.get("/v1/stock/A/main")).json() == winner.json()
