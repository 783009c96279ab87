"""The OpenAPI document describes the service, and the service keeps to it."""

import json
import re

from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.domain.errors import all_errors


async def document(service):
    return (await service.client.get("/schema/openapi.json")).json()


def operations(described):
    return {
        (method.upper(), path): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }


async def test_the_document_is_valid_openapi_3_1(service):
    described = await document(service)
    assert described["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(described).validate()


async def test_every_operation_of_the_contract_is_documented(service):
    described = operations(await document(service))
    reservation, stock = "/v1/reservations/{id}", "/v1/stock/{sku}/{location}"
    expected = {
        ("POST", "/v1/reservations"), ("GET", "/v1/reservations"), ("GET", reservation),
        ("POST", "/v1/reservations/batch"), ("GET", f"{reservation}/movements"),
        ("GET", f"{reservation}/refunds"), ("POST", f"{reservation}/refunds"),
        ("POST", f"{reservation}/confirm"), ("POST", f"{reservation}/cancel"),
        ("POST", f"{reservation}/extend"), ("PUT", stock), ("GET", stock), ("DELETE", stock),
        ("POST", f"{stock}/adjustments"), ("GET", f"{stock}/movements"), ("GET", "/v1/stock"),
        ("GET", "/v1/stock/{sku}"), ("POST", "/v1/imports"), ("GET", "/v1/audit"),
        ("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/metrics"), ("GET", "/schema"),
        ("GET", "/schema/openapi.json"), ("POST", "/v1/keys"), ("GET", "/v1/keys"),
        ("GET", "/v1/keys/{id}"), ("POST", "/v1/keys/{id}/rotate"), ("DELETE", "/v1/keys/{id}"),
    }  # fmt: skip
    assert expected <= set(described)


async def test_operation_ids_are_names_of_methods_and_stay(service):
    described = operations(await document(service))
    reservation, stock = "/v1/reservations/{id}", "/v1/stock/{sku}/{location}"
    assert {key: operation["operationId"] for key, operation in described.items()} == {
        ("POST", "/v1/reservations"): "reserve",
        ("POST", "/v1/reservations/batch"): "reserve_batch",
        ("GET", "/v1/reservations"): "list_reservations",
        ("GET", reservation): "get_reservation",
        ("POST", f"{reservation}/confirm"): "confirm_reservation",
        ("POST", f"{reservation}/cancel"): "cancel_reservation",
        ("POST", f"{reservation}/extend"): "extend_reservation",
        ("GET", f"{reservation}/movements"): "list_reservation_movements",
        ("POST", f"{reservation}/refunds"): "refund_reservation",
        ("GET", f"{reservation}/refunds"): "list_refunds",
        ("GET", f"{reservation}/refunds/{{refund_id}}"): "get_refund",
        ("GET", "/v1/stock"): "list_stock",
        ("GET", "/v1/stock/{sku}"): "list_stock_of_sku",
        ("GET", stock): "get_stock",
        ("PUT", stock): "set_stock",
        ("DELETE", stock): "delete_stock",
        ("POST", f"{stock}/adjustments"): "adjust_stock",
        ("GET", f"{stock}/movements"): "list_stock_movements",
        ("POST", "/v1/imports"): "import_stock",
        ("GET", "/v1/sources/{source}/limits"): "get_source_limits",
        ("PUT", "/v1/sources/{source}/limits"): "set_source_limits",
        ("POST", "/v1/keys"): "create_key",
        ("GET", "/v1/keys"): "list_keys",
        ("GET", "/v1/keys/{id}"): "get_key",
        ("POST", "/v1/keys/{id}/rotate"): "rotate_key",
        ("DELETE", "/v1/keys/{id}"): "revoke_key",
        ("GET", "/v1/audit"): "audit",
        ("GET", "/v1/access-log"): "list_access_log",
        ("GET", "/health/live"): "get_liveness",
        ("GET", "/health/ready"): "get_readiness",
        ("GET", "/metrics"): "get_metrics",
        ("GET", "/schema"): "get_openapi_page",
        ("GET", "/schema/openapi.json"): "get_openapi_document",
        ("GET", "/problems/{code}"): "get_problem_page",
    }


def media_types(described):
    """Everything that a body or an answer may contain: (operation's id, status, media type)."""
    for operation in operations(described).values():
        for media_type in operation.get("requestBody", {}).get("content", {}).values():
            yield operation["operationId"], "request", media_type
        for status, response in operation["responses"].items():
            for media_type in response.get("content", {}).values():
                yield operation["operationId"], status, media_type


async def test_every_request_and_every_good_answer_has_an_example(service):
    lacking = [
        (id_, status)
        for id_, status, media_type in media_types(await document(service))
        if (status < "4" or status == "request") and "example" not in media_type
    ]
    assert lacking == []


async def test_every_example_fits_its_schema(service):
    described = closed(await document(service))
    for _, _, media_type in media_types(described):
        examples = [example["value"] for example in media_type.get("examples", {}).values()]
        examples += [media_type["example"]] if "example" in media_type else []
        for example in examples:
            validate(described, media_type["schema"], example)
    for schema in described["components"]["schemas"].values():
        for member in schema.get("properties", {}).values():
            for example in member.get("examples", []):
                validate(described, member, example)


async def test_no_member_of_a_request_has_a_default_or_is_required_for_having_one(service):
    described = await document(service)
    schemas = described["components"]["schemas"]
    assert '"default"' not in json.dumps(schemas)
    assert schemas["ReserveBody"]["required"] == ["lines"]
    assert schemas["LineBody"]["required"] == ["sku", "quantity"]
    assert schemas["AdjustBody"]["required"] == ["delta", "reason"]


async def test_each_problem_has_a_schema_with_its_own_members_and_the_codes_are_an_enum(service):
    schemas = (await document(service))["components"]["schemas"]
    codes = [error.code for error in all_errors()]
    assert schemas["ErrorCode"]["enum"] == codes
    problems = [schemas[each["$ref"].rsplit("/", 1)[1]] for each in schemas["Problem"]["oneOf"]]
    assert [problem["properties"]["code"]["const"] for problem in problems] == codes
    assert "shortages" in schemas["InsufficientStockProblem"]["required"]
    assert schemas["AdjustmentBelowZeroProblem"]["properties"]["same_seq"]["const"] is True


async def test_pages_have_names_and_if_none_match_is_a_string(service):
    described = operations(await document(service))
    for operation in described.values():
        ok = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
        assert "properties" not in ok.get("schema", {})
        for parameter in operation["parameters"]:
            if parameter["name"] == "If-None-Match":
                assert parameter["schema"]["type"] == "string"
    listed = described["GET", "/v1/reservations"]["responses"]["200"]["content"]
    page = listed["application/json"]["schema"]
    assert page == {"$ref": "#/components/schemas/ReservationPage"}


def scope_of(operation):
    """Return the scope that the text of an operation names."""
    return re.search(r"a key with the scope `(\w+)`", operation["description"])[1]


async def test_only_operations_with_a_scope_need_a_key(service):
    for (_, path), operation in operations(await document(service)).items():
        needed = [set(each["key"]) for each in operation["security"]]
        assert needed == ([{scope_of(operation)}] if path.startswith("/v1/") else [])


async def test_every_tag_is_described_and_every_link_leads_to_an_operation(service):
    described = await document(service)
    tags = {tag["name"] for tag in described["tags"] if tag["description"]}
    by_id = {each["operationId"]: each for each in operations(described).values()}
    for operation in by_id.values():
        assert set(operation["tags"]) <= tags
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                names = {each["name"] for each in by_id[link["operationId"]]["parameters"]}
                assert set(link["parameters"]) <= names
    following = by_id["reserve"]["responses"]["201"]["links"]
    assert {"confirm_reservation", "cancel_reservation", "get_reservation"} <= set(following)


def closed(described):
    """The document with schemas that allow no members but those that they name."""
    copy = json.loads(json.dumps(described))
    for schema in copy["components"]["schemas"].values():
        if schema.get("type") == "object" and "properties" in schema and "oneOf" not in schema:
            schema.setdefault("additionalProperties", False)
    return copy


def validate(described, schema, value):
    whole = {**schema, "components": described["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(value)


async def conversation(service):
    """Get each good answer of every operation: (operation's path, response)."""
    client, create = service.client, {"If-None-Match": "*"}
    hold = {"seq": "1", "lines": [{"sku": "A", "quantity": 2}], "hold_seconds": 900}
    item, csv = "/v1/stock/{sku}/{location}", {"Content-Type": "text/csv"}
    adjustment = {"seq": "1", "delta": -1, "reason": "r"}
    body = {"available": 9, "name": "a", "low_stock_at": 9}
    yield item, await client.put("/v1/stock/A/main", json=body, headers=create)
    yield item, await client.put("/v1/stock/A/main", json=body, headers={"If-Match": '"1"'})
    for _ in range(2):
        yield (
            f"{item}/adjustments",
            await client.post("/v1/stock/A/main/adjustments", json=adjustment),
        )
        yield "/v1/imports", await client.post("/v1/imports?job=1", content="B,,1\n", headers=csv)
        yield "/v1/reservations", await client.post("/v1/reservations", json=hold)
    one, r = (
        "/v1/reservations/{id}",
        (await client.get("/v1/reservations")).json()["items"][0]["id"],
    )
    address = f"/v1/reservations/{r}"
    yield f"{one}/extend", await client.post(f"{address}/extend", json={"hold_seconds": 9})
    for _ in range(2):
        yield f"{one}/confirm", await client.post(f"{address}/confirm")
    for _ in range(2):
        refund = await client.post(f"{address}/refunds", json={"seq": "1", "reason": "r"})
        yield f"{one}/refunds", refund
    held = (await client.post("/v1/reservations", json={**hold, "seq": "2"})).headers["Location"]
    yield f"{one}/cancel", await client.post(f"{held}/cancel")
    short = {"seq": "3", "lines": [{"sku": "A", "quantity": 99}]}
    batch = {"reservations": [hold, short, {}, {**hold, "seq": "4"}]}
    yield "/v1/reservations/batch", await client.post("/v1/reservations/batch", json=batch)
    wanted = {"seq": "1", "source": "shop-us", "scopes": ["read"], "label": "till"}
    for _ in range(2):
        created = await client.post("/v1/keys", json=wanted)
        yield "/v1/keys", created
    key = created.headers["Location"]
    for _ in range(2):
        yield "/v1/keys/{id}/rotate", await client.post(f"{key}/rotate", json={"seq": "2"})
    yield "/v1/keys/{id}", await client.delete(key)
    reads = {
        "/v1/keys": "/v1/keys", "/v1/keys/{id}": key,
        "/v1/reservations": "/v1/reservations?limit=1", one: address, item: "/v1/stock/A/main",
        f"{one}/movements": f"{address}/movements", f"{one}/refunds": f"{address}/refunds",
        f"{one}/refunds/{{refund_id}}": refund.headers["Location"], "/v1/stock": "/v1/stock",
        "/v1/stock/{sku}": "/v1/stock/A", f"{item}/movements": "/v1/stock/A/main/movements",
        "/v1/sources/{source}/limits": "/v1/sources/us/limits",
        "/v1/audit": "/v1/audit", "/health/live": "/health/live", "/schema": "/schema",
        "/v1/access-log": "/v1/access-log",
        "/health/ready": "/health/ready", "/metrics": "/metrics",
        "/schema/openapi.json": "/schema/openapi.json", "/problems/{code}": "/problems/not-found",
    }  # fmt: skip
    limits = {"open_holds_max": 9, "requests_per_second": None}
    put = await client.put("/v1/sources/us/limits", json=limits)
    yield "/v1/sources/{source}/limits", put
    for path, concrete in reads.items():
        response = await client.get(concrete)
        yield path, response
        if "ETag" in response.headers:
            known = {"If-None-Match": response.headers["ETag"]}
            yield path, await client.get(concrete, headers=known)
    yield item, await client.delete("/v1/stock/B/main")
    yield item, await client.put("/v1/stock/C/main", json=body)
    yield "/v1/reservations", await client.post("/v1/reservations", json=short)
    yield f"{one}/cancel", await client.post(f"{address}/cancel")
    yield "/v1/keys/{id}/rotate", await client.post(f"{key}/rotate", json={"seq": "3"})


SOMETIMES = {"Idempotency-Replayed", "RateLimit", "RateLimit-Policy"}
"""Headers that tell something: this is a replay, or the source has a rate limit."""


async def test_every_good_answer_is_given_and_fits_its_schema_and_headers(service):
    described = await document(service)
    documented = operations(described)
    given_ = set()
    async for path, response in conversation(service):
        method = response.request.method
        answer = documented[method, path]["responses"][str(response.status_code)]
        given_.add((method, path, str(response.status_code)))
        if response.status_code < 400 and response.status_code != 304:
            promised = set(answer.get("headers", {})) - SOMETIMES
            assert promised <= {name.title().replace("Etag", "ETag") for name in response.headers}
        if "content" not in answer:
            assert response.content == b""
            continue
        media_type = response.headers["Content-Type"].partition(";")[0]
        assert media_type in answer["content"], (path, media_type)
        if media_type.endswith("json"):
            validate(described, answer["content"][media_type]["schema"], response.json())
    good = {
        (*key, status)
        for key, operation in documented.items()
        for status in operation["responses"]
        if status < "400"
    }
    assert good <= given_


async def test_answers_have_no_members_that_are_not_documented(service):
    strict = closed(await document(service))
    async for path, response in conversation(service):
        answer = operations(strict)[response.request.method, path]["responses"]
        for content in answer[str(response.status_code)].get("content", {}).values():
            if response.headers["Content-Type"].endswith("json"):
                validate(strict, content["schema"], response.json())
