"""Only a cursor that a list has returned is accepted; any other is 400."""

import base64
import json
import uuid

import pytest

LISTS = {
    "reservations": "/v1/reservations",
    "refunds": "{reservation}/refunds",
    "reservation movements": "{reservation}/movements",
    "stock": "/v1/stock",
    "sku": "/v1/stock/A",
    "stock movements": "/v1/stock/A/main/movements",
}
MOMENT = "2026-11-22T19:20:00Z"
FORGED = [
    [MOMENT, str(uuid.UUID(int=1)), 1], ["2026-11-22T19:20:00", str(uuid.UUID(int=1))],
    ["0001-01-01T00:00:00+23:59", str(uuid.UUID(int=1))], [MOMENT, "x"], [MOMENT, "A\0", "main"],
    ["2026-11-22T19:20:00", "A", "main"], 2**63, -(2**63) - 1, 2**70, 1.5, True, None, "x", {},
    [2**31, "A", "main"], [2**63, "A", "main"], [1, "A\0", "main"], [1, "A"], [], "NaN",
]  # fmt: skip


def encoded(value):
    return (
        base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode())
        .rstrip(b"=")
        .decode()
    )


@pytest.mark.parametrize("name", LISTS)
async def test_a_forged_cursor_is_400(service, name):
    await service.stock("A", 9)
    reservation = (await service.reserve("1", ("A", 1))).headers["Location"]
    path = LISTS[name].format(reservation=reservation)
    plain = ["", "x", "%", "====", "AAAA", "ÿ", "W10", "\x00", "A" * 10_000]
    for cursor in plain + [encoded(value) for value in FORGED]:
        response = await service.client.get(path, params={"cursor": cursor})
        assert response.status_code == 400, (cursor, response.text)
        assert response.json()["errors"][0]["path"] == "cursor"


async def test_a_cursor_of_another_kind_of_list_is_400(service):
    for location in ("main", "north"):
        await service.stock("A", 9, location=location)
    for n in range(2):
        await service.reserve(f"{n}", ("A", 1))
    given = {}
    for name in ("reservations", "stock", "stock movements"):
        response = await service.client.get(LISTS[name], params={"limit": 1})
        given[name] = response.json()["next_cursor"]
    for name in given:
        for other, cursor in given.items():
            response = await service.client.get(LISTS[name], params={"cursor": cursor})
            assert response.status_code == (200 if name == other else 400)
