"""An invalid value gets a 400 that names its path; it breaks nothing and moves no stock."""

import json
import uuid
from urllib.parse import quote

import pytest

JSON = {"Content-Type": "application/json"}
UNKNOWN = f"/v1/reservations/{uuid.UUID(int=1)}"

NOT_A_COUNT = [
    "0", "-1", "2147483648", "4294967297", "9223372036854775808", "18446744073709551616",
    "1" * 5000, "1e309", "-1e309", "1.0", "1e0", "1.5", '"1"', "true", "false", "null", "[]", "{}",
    '""', "[1]",
]  # fmt: skip
NOT_A_NAME = [
    "null", "1", "true", "[]", "{}", '""', '" x"', '"x "', '"\\u0000"', '"a\\u0000b"', '"a\\nb"',
    '"\\t"', '"\\u007f"', '"\\u0085x"', '"\\u00a0x"', '"x\\u2003"', '"\\u009f"',
    '"\\ud800"', '"a\\uDFFFb"', '"\\ud800\\ud800\\udc00"', f'"{"x" * 129}"', f'"{"é" * 129}"',
]  # fmt: skip

LINE = '{"sku": "A", "quantity": 1}'
RESERVE = f'{{"seq": "1", "lines": [{LINE}]%s}}'
TABLE = [
    *[(RESERVE.replace("1}", f"{v}}}") % "", "lines[0].quantity") for v in NOT_A_COUNT],
    *[(RESERVE % f', "hold_seconds": {v}', "hold_seconds") for v in NOT_A_COUNT if v != "null"],
    *[(RESERVE.replace('"1"', v) % "", "seq") for v in NOT_A_NAME],
    *[(RESERVE.replace('"A"', v) % "", "lines[0].sku") for v in [*NOT_A_NAME, '"."', '".."']],
    *[
        (RESERVE.replace('"A"', f'"A", "location": {v}') % "", "lines[0].location")
        for v in [*NOT_A_NAME, '"."', '".."']
    ],
    *[(RESERVE % f', "source": {v}', "source") for v in NOT_A_NAME if v != "null"],
    *[(RESERVE % f', "id": {v}', "id") for v in ('"x"', "1", '""', "[]", '"%s"' % ("f" * 31))],
    *[
        (f'{{"seq": "1", "lines": {v}}}', "lines")
        for v in ("null", "{}", "[]", '"A"', "1", f"[{','.join([LINE] * 1001)}]")
    ],
    *[(f'{{"seq": "1", "lines": [{v}]}}', "lines[0]") for v in ("null", "1", '"A"', "[]")],
    ('{"seq": "1"}', "lines"),
    ('{"lines": [{"sku": "A", "quantity": 1}]}', "seq"),
    (RESERVE.replace(', "quantity": 1', "") % "", "lines[0].quantity"),
    (RESERVE.replace("1}", '1, "price": 1}') % "", "lines[0].price"),
    (RESERVE % ', "state": "held"', "state"),
    (RESERVE % ', "seq": "1"', "seq"),
    (RESERVE % ', "metadata": {"a": "1", "a": "2"}', "metadata.a"),
    (RESERVE.replace("1}", '1, "quantity": 2}') % "", "lines[0].quantity"),
    *[(RESERVE % f', "metadata": {v}', "metadata") for v in ("null", "[]", '"x"', "1")],
    *[(RESERVE % f', "metadata": {{"a": {v}}}', "metadata.a") for v in ("null", "1", "{}", "[]")],
    (RESERVE % ', "metadata": {"a": "%s"}' % ("x" * 257), "metadata.a"),
    *[
        (RESERVE % f', "metadata": {{"a": "{v}"}}', "metadata.a")
        for v in ("\\u0000", "\\ud800", r"\\\ud800", r"\udc00\ud800")
    ],
    (RESERVE % ', "metadata": {"\\ud800": ""}', "metadata"),
    (RESERVE % f', "metadata": {{"a": {{"b": [{"1" * 5000}]}}}}', "metadata.a"),
    (RESERVE.replace('"1"', f"[[{'1' * 5000}]]") % "", "seq"),
    (RESERVE.replace('"A"', f"[{'1' * 5000}]") % "", "lines[0].sku"),
    (RESERVE.replace('"1"', f"[{'[]' + ',[]' * 20_000},{'[' * 400}{']' * 400}]") % "", "seq"),
    (RESERVE % ', "metadata": {%s}' % ",".join(f'"{n}": ""' for n in range(17)), "metadata"),
]
PATHLESS = [
    "", " ", "null", "[]", "1", '"x"', "{", '{"seq": "1",}', "{'seq': '1'}", "NaN", "\ufeff{}",
    RESERVE % "" + "x", "[" * 100_000, '{"a":' * 100_000, RESERVE.replace("1}", "NaN}") % "",
    RESERVE.replace("1}", "Infinity}") % "", RESERVE.replace("1}", "01}") % "",
    RESERVE.replace("1}", "0x1}") % "",  RESERVE.replace('"A"', '"a\nb"') % "",
    RESERVE % "" * 2,
]  # fmt: skip


def test_each_body_of_the_table_differs_from_a_valid_one():
    assert json.loads(RESERVE % "") == {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}
    assert all(body != RESERVE % "" for body, _ in TABLE)


async def test_an_escaped_pair_of_surrogates_is_one_character(service):
    await service.stock("A", 10)
    body = RESERVE % r', "metadata": {"a": "\ud83d\uded2 \\ud800"}'
    response = await service.client.post("/v1/reservations", content=body, headers=JSON)
    assert response.json()["metadata"] == {"a": "\U0001f6d2 \\ud800"}


async def refused(service, method, path, content, named=None):
    response = await service.client.request(method, path, content=content, headers=JSON)
    assert response.status_code == 400, (content[:200], response.text)
    problem = response.json()
    assert problem["code"] == "invalid_request"
    paths = [error["path"] for error in problem["errors"]]
    assert all(error["message"] for error in problem["errors"])
    if named is not None:
        assert any(path == named or path.startswith(f"{named}.") for path in paths), (
            content,
            paths,
        )
    assert all(paths)


async def test_a_hostile_value_is_400_and_the_error_names_it(service):
    await service.stock("A", 10)
    for body, named in TABLE:
        await refused(service, "POST", "/v1/reservations", body.encode(), named)
    assert await service.on_hand("A") == (10, 0)


async def test_a_hostile_value_in_a_batch_gets_the_same_error(service):
    await service.stock("A", 10)
    for body, named in TABLE:
        raw = f'{{"reservations": [{body}]}}'.encode()
        response = await service.client.post("/v1/reservations/batch", content=raw, headers=JSON)
        assert response.status_code == 200, (body[:200], response.text)
        result = response.json()["results"][0]
        assert (result["status"], result["problem"]["status"]) == (400, 400)
        paths = [error["path"] for error in result["problem"]["errors"]]
        assert any(path == named or path.startswith(f"{named}.") for path in paths), (body, paths)
    assert await service.on_hand("A") == (10, 0)


async def test_a_body_that_is_not_a_json_object_is_400(service):
    await service.stock("A", 10)
    for body in PATHLESS:
        await refused(service, "POST", "/v1/reservations", body.encode())
        await refused(service, "POST", "/v1/reservations/batch", body.encode())
    for raw in ((RESERVE % "").encode("utf-16"), b"\xff\xfe", b'{"seq": "\xe9"}', b"\x00"):
        await refused(service, "POST", "/v1/reservations", raw)
    assert await service.on_hand("A") == (10, 0)


OTHER_BODIES = [
    *[("PUT", "/v1/stock/A/main", f'{{"available": {v}}}', "available")
      for v in [*NOT_A_COUNT[1:2], *NOT_A_COUNT[4:], "1000000000001"]],
    *[("PUT", "/v1/stock/A/main", f'{{"available": 1, "low_stock_at": {v}}}', "low_stock_at")
      for v in ("-1", '"1"', "1.0", "true", "1000000000001")],
    *[("PUT", "/v1/stock/A/main", f'{{"available": 1, "name": {v}}}', "name")
      for v in ("1", "[]", '"\\u0000"')],
    ("PUT", "/v1/stock/A/main", '{"available": 1, "held": 1}', "held"),
    *[("POST", "/v1/stock/A/main/adjustments",
       f'{{"seq": "1", "reason": "r", "delta": {v}}}', "delta")
      for v in [*NOT_A_COUNT[:1], *NOT_A_COUNT[4:]]],
    *[("POST", "/v1/stock/A/main/adjustments", f'{{"seq": "1", "delta": 1, "reason": {v}}}',
       "reason") for v in ("null", "1", '""', '"\\u0000"')],
    ("POST", "/v1/stock/A/main/adjustments", '{"seq": "1", "delta": 1}', "reason"),
    *[("POST", "/v1/stock/A/main/adjustments",
       f'{{"seq": "1", "delta": 1, "reason": "r", "expected_version": {v}}}',
       "expected_version") for v in ("-1", '"1"', "1.0", "true", "9223372036854775808")],
    *[("POST", f"{UNKNOWN}/extend", f'{{"hold_seconds": {v}}}', "hold_seconds")
      for v in [*NOT_A_COUNT, "604801"]],
    ("POST", f"{UNKNOWN}/extend", "{}", "hold_seconds"),
    *[("POST", f"{UNKNOWN}/confirm", f'{{"lines": [{{"sku": "A", "quantity": {v}}}]}}',
       "lines[0].quantity") for v in NOT_A_COUNT],
    ("POST", f"{UNKNOWN}/confirm", '{"seq": "1"}', "seq"),
    ("POST", f"{UNKNOWN}/cancel", '{"lines": []}', "lines"),
    *[("POST", f"{UNKNOWN}/refunds",
       f'{{"seq": "1", "lines": [{{"sku": "A", "quantity": {v}}}]}}', "lines[0].quantity")
      for v in NOT_A_COUNT],
    *[("POST", f"{UNKNOWN}/refunds", f'{{"seq": {v}}}', "seq") for v in NOT_A_NAME],
    *[("POST", f"{UNKNOWN}/refunds", f'{{"seq": "1", "reason": {v}}}', "reason")
      for v in ("1", '"\\u0000"', "[]")],
]  # fmt: skip


async def test_hostile_values_in_the_bodies_of_other_operations_are_400(service):
    for method, path, body, named in OTHER_BODIES:
        await refused(service, method, path, body.encode(), named)


@pytest.mark.parametrize(
    "name",
    ["a/b", "a%2Fb", "%", "100%", "Ünïcode 🛒", "a b", "a?b#c", "a+b&c=d", "..a", "...", "a;b", "~",
     "a\\b", "\"'<>", "batch", "movements", "x" * 128, "🛒" * 128, "\u2028x\u2028".strip() + "y"],
)  # fmt: skip
async def test_any_printable_name_can_be_addressed(service, name):
    path = f"/v1/stock/{quote(name, safe='')}/{quote(name, safe='')}"
    created = await service.client.put(path, json={"available": 5}, headers={"If-None-Match": "*"})
    assert created.status_code == 201, created.text
    read = await service.client.get(created.headers["Location"])
    assert (read.json()["sku"], read.json()["location"]) == (name, name)
    body = {"seq": name, "lines": [{"sku": name, "location": name, "quantity": 1}]}
    assert (await service.client.post("/v1/reservations", json=body)).status_code == 201
    for suffix in ("", "/movements"):
        assert (await service.client.get(path + suffix)).status_code == 200
    listed = await service.client.get("/v1/reservations", params={"sku": name, "seq": name})
    assert len(listed.json()["items"]) == 1
    assert len((await service.client.get(f"/v1/stock/{quote(name, safe='')}")).json()["items"]) == 1
    assert (await service.client.delete(path)).status_code == 204


@pytest.mark.parametrize(
    "name",
    ["%2E", "%2e%2e", "%00", "a%00", "%0A", "%20x", "x%20", "%FF", "%ED%A0%80", "%C3", "x" * 129],
)
async def test_a_path_with_an_illegal_name_is_400(service, name):
    for method, path in (
        ("GET", f"/v1/stock/{name}"), ("GET", f"/v1/stock/{name}/main"),
        ("GET", f"/v1/stock/A/{name}"), ("GET", f"/v1/stock/A/{name}/movements"),
        ("DELETE", f"/v1/stock/A/{name}"), ("PUT", f"/v1/stock/{name}/main"),
        ("POST", f"/v1/stock/{name}/main/adjustments"),
    ):  # fmt: skip
        response = await service.client.request(method, path, json={"available": 1})
        assert response.status_code == 400, (method, path, response.text)
        assert response.json()["errors"][0]["path"] in ("sku", "location")
