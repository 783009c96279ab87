"""The same request, twice, has one effect and one answer."""

import asyncio
import uuid

import pytest

LINES = [{"sku": "A", "location": "main", "quantity": 2}]
MINE = {"seq": "1", "lines": LINES, "hold_seconds": 900, "metadata": {"cart": "c-77"}}


def derived(source, seq):
    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, f"holdfast:{source}"), seq))


async def send(service, body, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.client.post("/v1/reservations", json=body, headers=named)


def is_replay(response):
    return response.headers.get("Idempotency-Replayed") == "true"


async def test_the_first_answer_is_201_with_location_and_etag(service):
    await service.stock("A", 10)
    response = await send(service, MINE)
    body = response.json()
    assert response.status_code == 201
    assert not is_replay(response)
    assert response.headers["Location"] == f"/v1/reservations/{body['id']}"
    assert response.headers["ETag"] == '"1"'
    read = await service.client.get(response.headers["Location"])
    assert (read.json(), read.headers["ETag"]) == (body, '"1"')


@pytest.mark.parametrize("seq", ["order-1001", "Ünïcode 🛒", "a/b%2F?#", "x" * 128])
async def test_the_id_can_be_computed_before_sending(service, seq):
    await service.stock("A", 10)
    response = await send(service, {"seq": seq, "lines": LINES})
    assert response.json()["id"] == derived("shop-eu", seq)


async def test_the_client_may_choose_the_id(service):
    await service.stock("A", 10)
    chosen = str(uuid.uuid4())
    first = await send(service, {**MINE, "id": chosen})
    again = await send(service, {**MINE, "id": chosen.upper()})
    without = await send(service, MINE)
    assert [r.status_code for r in (first, again, without)] == [201, 200, 200]
    assert first.json() == again.json() == without.json()
    assert first.json()["id"] == chosen


@pytest.mark.parametrize("key", ["1", '"1"'])
async def test_the_header_idempotency_key_can_replace_seq(service, key):
    await service.stock("A", 10)
    body = {name: value for name, value in MINE.items() if name != "seq"}
    first = await send(service, body, Idempotency_Key=key)
    assert (first.status_code, first.json()["seq"]) == (201, "1")
    assert is_replay(await send(service, MINE))
    assert is_replay(await send(service, MINE, Idempotency_Key=key))
    assert await service.on_hand("A") == (8, 2)


async def test_a_quoted_idempotency_key_is_unescaped(service):
    await service.stock("A", 10)
    first = await send(service, {"lines": LINES}, Idempotency_Key=r'"a \"b\" \\c"')
    assert first.json()["seq"] == r'a "b" \c'


@pytest.mark.parametrize("key", ["2", '"2"', "", '"', '"a', '"a"b', r'"\a"', '" 1"', "x" * 129])
async def test_an_idempotency_key_that_differs_from_seq_or_is_malformed_is_400(service, key):
    await service.stock("A", 10)
    response = await send(service, MINE, Idempotency_Key=key)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.json()["errors"][0]["path"] == "Idempotency-Key"
    assert await service.on_hand("A") == (10, 0)


async def test_a_request_without_any_seq_is_400(service):
    response = await send(service, {"lines": LINES})
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] == "seq"


@pytest.mark.parametrize(
    "lines",
    [
        [{"sku": "A", "quantity": 3}, {"sku": "B", "quantity": 1}],
        [{"sku": "B", "location": "main", "quantity": 1}, {"quantity": 3, "sku": "A"}],
        [{"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 1}, {"sku": "A", "quantity": 2}],
    ],
)
async def test_lines_in_another_order_or_form_are_the_same_content(service, lines):
    await service.stock("A", 10)
    await service.stock("B", 10)
    first = await service.reserve("1", ("A", 3), ("B", 1))
    again = await send(service, {"lines": lines, "metadata": {}, "seq": "1"})
    assert (again.status_code, is_replay(again)) == (200, True)
    assert again.json() == first.json()


async def test_duplicate_lines_are_merged_in_the_answer_and_the_tables(service):
    await service.stock("A", 10)
    response = await service.reserve("1", ("A", 1), ("A", 1), hold_seconds=900)
    assert response.json()["lines"] == [
        {"sku": "A", "location": "main", "quantity": 2, "confirmed": 0, "refunded": 0}
    ]
    assert [row["quantity"] for row in await service.sql("TABLE reservation_line")] == [2]
    assert len(await service.sql("SELECT FROM movement WHERE kind = 'reserve'")) == 1


OTHER = str(uuid.UUID(int=7, version=4))
OTHER_LINES = [{"sku": "A", "location": "main", "quantity": 1}]


@pytest.mark.parametrize(
    ("change", "field", "stored", "sent"),
    [
        ({"id": OTHER}, "id", derived("shop-eu", "1"), OTHER),
        ({"lines": OTHER_LINES}, "lines", LINES, OTHER_LINES),
        ({"hold_seconds": 901}, "hold_seconds", 900, 901),
        ({"hold_seconds": None}, "hold_seconds", 900, None),
        ({"metadata": {}}, "metadata", {"cart": "c-77"}, {}),
        (
            {"id": OTHER, "lines": OTHER_LINES, "hold_seconds": 1, "metadata": {}},
            "id",
            derived("shop-eu", "1"),
            OTHER,
        ),
        (
            {"lines": OTHER_LINES, "hold_seconds": 1, "metadata": {}},
            "lines",
            LINES,
            OTHER_LINES,
        ),
        ({"hold_seconds": 1, "metadata": {}}, "hold_seconds", 900, 1),
    ],
)
async def test_a_repetition_with_other_content_is_422_and_names_the_first_field_that_differs(
    service, change, field, stored, sent
):
    await service.stock("A", 10)
    await send(service, MINE)
    response = await send(service, {**MINE, **change})
    problem = response.json()
    assert response.status_code == 422
    assert problem["code"] == "idempotency_mismatch"
    assert (problem["field"], problem["stored"], problem["sent"]) == (field, stored, sent)
    assert await service.on_hand("A") == (8, 2)
    assert len(await service.sql("TABLE reservation")) == 1


async def test_the_same_id_with_another_seq_is_422(service):
    await service.stock("A", 10)
    await send(service, {**MINE, "id": OTHER})
    problem = (await send(service, {**MINE, "id": OTHER, "seq": "2"})).json()
    assert (problem["status"], problem["field"]) == (422, "seq")
    assert (problem["stored"], problem["sent"]) == ("1", "2")


async def test_a_stored_seq_takes_precedence_over_a_stored_id(service):
    await service.stock("A", 10)
    first = await send(service, MINE)
    second = await send(service, {**MINE, "seq": "2", "id": OTHER})
    response = await send(service, {**MINE, "id": second.json()["id"]})
    problem = response.json()
    assert (response.status_code, problem["field"]) == (422, "id")
    assert (problem["stored"], problem["sent"]) == (first.json()["id"], second.json()["id"])


async def test_another_source_s_id_is_refused_without_details(service):
    await service.stock("A", 10)
    taken = (await send(service, {**MINE, "id": OTHER})).json()["id"]
    other = await service.key("shop-us", "reserve")
    for body in ({**MINE, "id": taken}, {"seq": "9", "lines": OTHER_LINES, "id": taken}):
        response = await service.client.post("/v1/reservations", json=body, headers=other)
        problem = response.json()
        assert response.status_code == 422
        assert (problem["field"], problem["stored"], problem["sent"]) == ("id", None, taken)
        assert "shop-eu" not in response.text
    assert await service.on_hand("A") == (8, 2)


TIME_ORDERED = "01890a5d-ac96-774b-bcce-b302099a8057"
RANDOM = "9f1c5a0e-2a3b-4f6d-8e7c-5b0d1c2e3f40"
TIME_BASED = "7aac6710-ebe1-11f1-99fa-02fc00000001"
NOT_TO_BE_CHOSEN = [
    derived("shop-us", "1"), derived("shop-eu", "2"), derived("shop-us", "not yet used"),
    str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)), TIME_BASED,
    str(uuid.uuid3(uuid.NAMESPACE_URL, "x")), str(uuid.uuid5(uuid.NAMESPACE_URL, "x")),
    TIME_ORDERED.replace("-774b", "-674b"), TIME_ORDERED.replace("-774b", "-874b"),
    TIME_ORDERED.replace("-bcce", "-7cce"), TIME_ORDERED.replace("-bcce", "-ccce"),
]  # fmt: skip


@pytest.mark.parametrize("chosen", [TIME_ORDERED, RANDOM, derived("shop-eu", "1")])
async def test_a_chosen_id_is_random_or_time_ordered_or_the_derived_one(service, chosen):
    await service.stock("A", 10)
    answers = [await send(service, {**MINE, "id": chosen}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["id"] == chosen


@pytest.mark.parametrize("chosen", NOT_TO_BE_CHOSEN)
async def test_any_other_chosen_id_is_400_before_any_row_is_read(service, chosen):
    """The answer is the same if the seq was used or the SKU is unknown, so it reveals nothing."""
    await service.stock("A", 10)
    other = await service.key("shop-us", "reserve")
    await service.client.post("/v1/reservations", json=MINE, headers=other)
    await send(service, {**MINE, "seq": "2"})
    unknown = [{"sku": "unknown", "quantity": 1}]
    for body in (MINE, {**MINE, "lines": unknown}, {**MINE, "lines": OTHER_LINES}):
        problem = (await send(service, {**body, "id": chosen})).json()
        assert (problem["status"], problem["errors"][0]["path"]) == (400, "id")
        batch = {"reservations": [{**body, "id": chosen}, {**MINE, "seq": "2"}]}
        answer = await service.client.post("/v1/reservations/batch", json=batch)
        bad, good = answer.json()["results"]
        assert (bad["status"], bad["problem"]["errors"]) == (400, problem["errors"])
        assert (good["status"], good["replayed"]) == (200, True)
    assert len(await service.sql("TABLE reservation")) == 2


async def test_no_caller_can_choose_the_id_that_another_source_will_derive(service):
    await service.stock("A", 10)
    squatter = await service.key("shop-us", "reserve")
    entries = [{"seq": f"{n}", "lines": LINES, "id": derived("shop-eu", f"{n}")} for n in range(9)]
    answer = await service.client.post(
        "/v1/reservations/batch", json={"reservations": entries}, headers=squatter
    )
    assert {result["status"] for result in answer.json()["results"]} == {400}
    assert (await send(service, MINE)).status_code == 201


async def test_two_sources_may_use_the_same_seq(service):
    await service.stock("A", 10)
    other = await service.key("shop-us", "reserve")
    mine = await send(service, MINE)
    theirs = await service.client.post("/v1/reservations", json=MINE, headers=other)
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert theirs.json()["id"] == derived("shop-us", "1")
    assert await service.on_hand("A") == (6, 4)


async def test_a_refund_and_an_adjustment_may_use_a_reservation_s_seq(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 1))).headers["Location"]
    refund = await service.client.post(f"{address}/refunds", json={"seq": "1"})
    adjustment = await service.client.post(
        "/v1/stock/A/main/adjustments", json={"seq": "1", "delta": 1, "reason": "found"}
    )
    assert (refund.status_code, adjustment.status_code) == (201, 201)


@pytest.mark.parametrize("state", ["confirmed", "cancelled", "expired", "refunded"])
async def test_a_replay_shows_the_current_state_of_the_reservation(service_without_sweeper, state):
    service = service_without_sweeper
    await service.stock("A", 10)
    address = (await send(service, MINE)).headers["Location"]
    if state == "expired":
        await service.sql("UPDATE reservation SET expires_at = now() - interval '1 s'")
    await service.client.post(f"{address}/{'cancel' if state == 'cancelled' else 'confirm'}")
    if state == "refunded":
        await service.client.post(f"{address}/refunds", json={"seq": "back"})
    before = await service.on_hand("A")
    again = await send(service, MINE)
    assert (again.status_code, is_replay(again)) == (200, True)
    assert again.json()["state"] == state
    assert again.json() == (await service.client.get(address)).json()
    assert again.headers["ETag"] == f'"{again.json()["version"]}"'
    assert await service.on_hand("A") == before


async def test_64_equal_requests_at_once_have_one_effect_and_one_answer(service):
    await service.stock("A", 100)
    answers = await asyncio.gather(*(send(service, MINE) for _ in range(64)))
    assert sorted(r.status_code for r in answers) == [200] * 63 + [201]
    assert [is_replay(r) for r in answers].count(False) == 1
    assert all(r.json() == answers[0].json() for r in answers)
    assert await service.on_hand("A") == (98, 2)
    assert len(await service.sql("SELECT FROM movement WHERE kind = 'reserve'")) == 1


async def test_of_64_contents_for_one_seq_at_once_exactly_one_is_stored(service):
    await service.stock("A", 1000)
    answers = await asyncio.gather(*(service.reserve("1", ("A", n)) for n in range(1, 65)))
    assert sorted(r.status_code for r in answers) == [201] + [422] * 63
    winner = next(r for r in answers if r.status_code == 201)
    taken = winner.json()["lines"][0]["quantity"]
    assert all(r.json()["stored"][0]["quantity"] == taken for r in answers if r is not winner)
    assert await service.on_hand("A") == (1000 - taken, 0)


async def test_a_refused_reservation_stays_refused_after_restock(service):
    await service.stock("A", 1)
    first = await send(service, MINE)
    await service.client.put(
        "/v1/stock/A/main", json={"available": 50}, headers={"If-Match": '"1"'}
    )
    again = await send(service, MINE)
    assert (first.status_code, again.status_code) == (409, 409)
    assert (is_replay(first), is_replay(again)) == (False, True)
    ids = {"request_id": None}  # each request has its own
    assert first.json() | ids == again.json() | ids
    assert first.json()["code"] == "insufficient_stock"
    assert first.json()["same_seq"] is False
    assert first.json()["reservation_id"] == derived("shop-eu", "1")
    shortage = {"sku": "A", "location": "main", "requested": 2, "available": 1}
    assert first.json()["shortages"] == [shortage]
    assert (await send(service, {**MINE, "seq": "2"})).status_code == 201


async def test_a_refusal_is_stored_as_rejected_with_its_shortages(service):
    await service.stock("A", 1)
    await service.stock("B", 0)
    await service.stock("C", 9)
    refused = await service.reserve("1", ("C", 9), ("B", 1), ("A", 1), ("A", 1), hold_seconds=9)
    address = f"/v1/reservations/{refused.json()['reservation_id']}"
    stored = (await service.client.get(address)).json()
    assert (stored["state"], stored["version"], stored["expires_at"]) == ("rejected", 1, None)
    assert stored["shortages"] == refused.json()["shortages"]
    assert sorted((s["sku"], s["requested"]) for s in stored["shortages"]) == [("A", 2), ("B", 1)]
    assert (await service.client.get(f"{address}/movements")).json()["items"] == []


async def test_a_repetition_of_a_refused_request_with_other_content_is_422(service):
    await service.stock("A", 1)
    await send(service, MINE)
    response = await send(service, {**MINE, "lines": OTHER_LINES})
    assert (response.status_code, response.json()["field"]) == (422, "lines")


async def test_a_refusal_for_an_unknown_sku_is_not_stored_and_precedes_shortages(service):
    await service.stock("A", 1)
    first = await service.reserve("1", ("A", 5), ("B", 1), ("C", 1))
    assert (first.status_code, first.json()["code"]) == (404, "unknown_sku")
    assert first.json()["unknown"] == [
        {"sku": "B", "location": "main"},
        {"sku": "C", "location": "main"},
    ]
    assert await service.sql("TABLE reservation") == []
    await service.stock("B", 1)
    await service.stock("C", 1)
    assert (await service.reserve("1", ("A", 1), ("B", 1), ("C", 1))).status_code == 201


async def test_a_stored_answer_is_replayed_even_if_the_sku_was_deleted(service):
    await service.stock("A", 2)
    first = await service.reserve("1", ("A", 2))
    await service.reserve("2", ("A", 2))
    assert (await service.client.delete("/v1/stock/A/main")).status_code == 204
    again, refused = await service.reserve("1", ("A", 2)), await service.reserve("2", ("A", 2))
    assert (again.status_code, refused.status_code) == (200, 409)
    assert again.json() == first.json()
    assert (await service.reserve("3", ("A", 2))).status_code == 404


async def test_the_answer_to_a_malformed_request_is_not_stored(service):
    await service.stock("A", 9)
    assert (await service.reserve("1", ("A", 0))).status_code == 400
    assert (await service.reserve("1", ("A", 1))).status_code == 201


async def test_seqs_are_compared_byte_for_byte(service):
    await service.stock("A", 9)
    for seq in ("order", "ORDER", "café", "cafe\u0301"):
        assert (await service.reserve(seq, ("A", 1))).status_code == 201
