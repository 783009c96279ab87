"""Refunds of a sale, over HTTP."""

import asyncio
import uuid

import pytest


async def sale(service, *lines, seq="1"):
    response = await service.reserve(seq, *lines)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


async def refund(service, address, seq, *lines, **more):
    body = {"seq": seq, **more}
    if lines:
        body["lines"] = [{"sku": sku, "quantity": quantity} for sku, quantity in lines]
    return await service.client.post(f"{address}/refunds", json=body)


def quantities(*lines):
    return [{"sku": sku, "location": "main", "quantity": quantity} for sku, quantity in lines]


def is_replay(response):
    return response.headers.get("Idempotency-Replayed") == "true"


async def test_a_refund_of_everything_returns_every_unit_and_ends_the_sale(service):
    await service.stock("A", 10)
    await service.stock("B", 10)
    address = await sale(service, ("A", 3), ("B", 1))
    response = await refund(service, address, "r1", reason="damaged")
    body = response.json()
    assert response.status_code == 201
    assert body == {
        "id": body["id"], "reservation_id": address.rsplit("/", 1)[1], "source": "shop-eu",
        "seq": "r1", "lines": quantities(("A", 3), ("B", 1)), "reason": "damaged",
        "created_at": body["created_at"],
    }  # fmt: skip
    assert (await service.on_hand("A"), await service.on_hand("B")) == ((10, 0), (10, 0))
    stored = (await service.client.get(address)).json()
    assert (stored["state"], stored["version"]) == ("refunded", 2)
    assert [line["refunded"] for line in stored["lines"]] == [3, 1]
    read = await service.client.get(response.headers["Location"])
    assert (read.status_code, read.json()) == (200, body)
    assert read.headers["ETag"] == response.headers["ETag"]


async def test_a_sale_is_refunded_once_its_last_unit_is_returned(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    first = await refund(service, address, "r1", ("A", 1), ("A", 1))
    assert first.json()["lines"] == quantities(("A", 2))
    assert (await service.client.get(address)).json()["state"] == "confirmed"
    assert await service.on_hand("A") == (9, 0)
    rest = await refund(service, address, "r2")
    assert rest.json()["lines"] == quantities(("A", 1))
    assert (await service.client.get(address)).json()["state"] == "refunded"
    assert await service.on_hand("A") == (10, 0)
    listed = (await service.client.get(f"{address}/refunds")).json()
    assert listed == {"items": [first.json(), rest.json()], "next_cursor": None}


async def test_a_new_refund_after_the_last_is_illegal_but_an_old_one_is_replayed(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    first = await refund(service, address, "r1")
    again = await refund(service, address, "r1")
    assert (again.status_code, is_replay(again)) == (200, True)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    for lines in ([], [("A", 1)]):
        other = await refund(service, address, "r2", *lines)
        assert (other.status_code, other.json()["code"]) == (409, "illegal_transition")
        assert (other.json()["state"], other.json()["allowed"]) == ("refunded", [])
    assert await service.on_hand("A") == (10, 0)


async def test_confirming_after_a_full_refund_is_refused_with_the_current_state(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    await refund(service, address, "r1")
    response = await service.client.post(f"{address}/confirm")
    assert (response.status_code, response.json()["state"]) == (409, "refunded")


async def test_confirming_after_a_part_was_refunded_is_still_a_repetition(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    await refund(service, address, "r1", ("A", 1))
    assert is_replay(await service.client.post(f"{address}/confirm"))


@pytest.mark.parametrize("lines", [[("A", 3)], [("A", 1), ("B", 3)], [("A", 1), ("A", 2)]])
async def test_refunding_more_than_is_left_is_409_and_reports_the_units_left(service, lines):
    await service.stock("A", 10)
    await service.stock("B", 10)
    await service.stock("C", 10)
    address = await sale(service, ("A", 3), ("B", 2), ("C", 1))
    await refund(service, address, "r1", ("A", 1), ("C", 1))
    response = await refund(service, address, "r2", *lines)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "exceeds_refundable")
    assert problem["refundable"] == quantities(("A", 2), ("B", 2))
    assert await service.on_hand("A") == (8, 0)


async def test_a_sku_that_was_not_sold_exceeds_the_refundable_units(service):
    await service.stock("A", 10)
    await service.stock("B", 10)
    address = await sale(service, ("A", 3))
    response = await refund(service, address, "r1", ("B", 1))
    assert (response.status_code, response.json()["code"]) == (409, "exceeds_refundable")


async def test_only_confirmed_units_can_be_refunded(service):
    await service.stock("A", 10)
    address = (await service.reserve("1", ("A", 3), hold_seconds=60)).headers["Location"]
    await service.client.post(f"{address}/confirm", json={"lines": [{"sku": "A", "quantity": 1}]})
    response = await refund(service, address, "r1", ("A", 2))
    assert response.json()["refundable"] == quantities(("A", 1))
    assert (await refund(service, address, "r2")).json()["lines"] == quantities(("A", 1))
    assert (await service.client.get(address)).json()["state"] == "refunded"
    assert await service.on_hand("A") == (10, 0)


async def test_the_refusal_of_a_refund_is_not_stored(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    assert (await refund(service, address, "r1", ("A", 4))).status_code == 409
    assert (await refund(service, address, "r1", ("A", 2))).status_code == 201


async def test_a_repetition_with_other_content_is_422_and_names_the_first_field_that_differs(
    service,
):
    await service.stock("A", 10)
    address, other = await sale(service, ("A", 3)), await sale(service, ("A", 3), seq="2")
    await refund(service, address, "r1", ("A", 2), reason="damaged")
    mine, theirs = address.rsplit("/", 1)[1], other.rsplit("/", 1)[1]
    two, one = quantities(("A", 2)), quantities(("A", 1))
    for target, lines, reason, field, stored, sent in (
        (other, [("A", 2)], "damaged", "reservation_id", mine, theirs),
        (other, [], None, "reservation_id", mine, theirs),
        (address, [("A", 1)], "damaged", "lines", two, one),
        (address, [], None, "lines", two, None),
        (address, [("A", 2)], "lost", "reason", "damaged", "lost"),
        (address, [("A", 2)], None, "reason", "damaged", None),
    ):
        response = await refund(service, target, "r1", *lines, reason=reason)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, "idempotency_mismatch")
        assert problem["field"] in (field, field.removesuffix("_id"))
        assert (problem["stored"], problem["sent"]) == (stored, sent)
    assert await service.on_hand("A") == (6, 0)


async def test_a_refund_with_lines_for_all_units_differs_from_one_without_lines(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    await refund(service, address, "r1")
    response = await refund(service, address, "r1", ("A", 3))
    assert (response.status_code, response.json()["field"]) == (422, "lines")
    assert (response.json()["stored"], response.json()["sent"]) == (None, quantities(("A", 3)))


async def test_lines_in_another_order_or_form_are_the_same_content(service):
    await service.stock("A", 10)
    await service.stock("B", 10)
    address = await sale(service, ("A", 3), ("B", 2))
    await refund(service, address, "r1", ("A", 2), ("B", 1))
    assert is_replay(await refund(service, address, "r1", ("B", 1), ("A", 1), ("A", 1)))


async def test_the_header_idempotency_key_can_replace_seq(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    key = {"Idempotency-Key": '"r1"'}
    first = await service.client.post(f"{address}/refunds", json={}, headers=key)
    assert (first.status_code, first.json()["seq"]) == (201, "r1")
    assert is_replay(await refund(service, address, "r1"))
    both = await service.client.post(f"{address}/refunds", json={"seq": "r2"}, headers=key)
    neither = await service.client.post(f"{address}/refunds", json={})
    assert (both.status_code, neither.status_code) == (400, 400)


async def test_an_empty_list_of_lines_is_400(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 3))
    response = await refund(service, address, "r1", lines=[])
    assert (response.status_code, response.json()["errors"][0]["path"]) == (400, "lines")


async def test_a_refund_to_a_row_that_was_deleted_after_the_sale_is_404(service):
    await service.stock("A", 3)
    await service.stock("B", 3)
    address = await sale(service, ("A", 3), ("B", 3))
    await service.client.delete("/v1/stock/A/main")
    response = await refund(service, address, "r1")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_sku")
    assert response.json()["unknown"] == [{"sku": "A", "location": "main"}]
    assert await service.on_hand("B") == (0, 0)
    assert (await refund(service, address, "r2", ("B", 3))).status_code == 201
    await service.stock("A", 0)
    assert (await refund(service, address, "r1")).json()["lines"] == quantities(("A", 3))


async def test_an_unknown_reservation_is_404(service):
    response = await refund(service, f"/v1/reservations/{uuid.uuid4()}", "r1")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_64_equal_refunds_at_once_return_the_units_once(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 10))
    answers = await asyncio.gather(*(refund(service, address, "r1", ("A", 2)) for _ in range(64)))
    assert sorted(r.status_code for r in answers) == [200] * 63 + [201]
    assert all(r.json() == answers[0].json() for r in answers)
    assert await service.on_hand("A") == (2, 0)


async def test_many_refunds_at_once_return_no_more_units_than_were_sold(service):
    await service.stock("A", 10)
    address = await sale(service, ("A", 5))
    answers = await asyncio.gather(*(refund(service, address, f"r{n}", ("A", 2)) for n in range(8)))
    assert sorted(r.status_code for r in answers) == [201] * 2 + [409] * 6
    assert await service.on_hand("A") == (9, 0)
