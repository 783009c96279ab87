"""Problem documents: they have one shape, and each kind of error has its own code."""

import uuid

import pytest

from tests.conftest import running_service

MEMBERS = {
    "type", "title", "status", "detail", "instance", "request_id", "code", "retryable", "same_seq"
}  # fmt: skip
UNKNOWN = f"/v1/reservations/{uuid.UUID(int=1)}"
HOLD = {"seq": "1", "lines": [{"sku": "A", "quantity": 2}], "hold_seconds": 900}


async def provoke(service, code):
    """Make the service answer with a code."""
    client = service.client
    await service.stock("A", 10)
    held = (await client.post("/v1/reservations", json=HOLD)).headers["Location"]
    sold = (await service.reserve("sold", ("A", 1))).headers["Location"]
    await client.post("/v1/stock/A/main/adjustments", json={"seq": "1", "delta": 1, "reason": "r"})
    other = await service.key("shop-eu", "read")
    too_many = {"lines": [{"sku": "A", "quantity": 3}]}
    below = {"seq": "2", "delta": -99, "reason": "r"}
    requests = {
        "invalid_request": ("POST", "/v1/reservations", {"json": {}}),
        "unauthenticated": ("GET", held, {"headers": {"Authorization": "Bearer x"}}),
        "forbidden": ("POST", f"{held}/confirm", {"headers": other}),
        "not_found": ("GET", UNKNOWN, {}),
        "unknown_sku": ("POST", "/v1/reservations", {"json": {"seq": "2", "lines": [
            {"sku": "B", "quantity": 1}]}}),
        "method_not_allowed": ("PATCH", held, {}),
        "not_acceptable": ("GET", held, {"headers": {"Accept": "text/html"}}),
        "too_large": ("POST", "/v1/reservations", {"content": b" " * (1024 * 1024 + 1)}),
        "unsupported_media_type": ("POST", "/v1/reservations", {
            "content": b"{}", "headers": {"Content-Type": "text/plain"}}),
        "insufficient_stock": ("POST", "/v1/reservations", {"json": {"seq": "2", "lines": [
            {"sku": "A", "quantity": 99}]}}),
        "adjustment": ("POST", "/v1/stock/A/main/adjustments", {"json": below}),
        "illegal_transition": ("POST", f"{sold}/cancel", {}),
        "exceeds_refundable": ("POST", f"{sold}/refunds", {"json": {"seq": "1", **too_many}}),
        "stock_in_use": ("DELETE", "/v1/stock/A/main", {}),
        "version_mismatch": ("PUT", "/v1/stock/A/main", {
            "json": {"available": 1}, "headers": {"If-Match": '"77"'}}),
        "precondition_required": ("PUT", "/v1/stock/A/main", {"json": {"available": 1}}),
        "idempotency_mismatch": ("POST", "/v1/reservations", {"json": {
            **HOLD, "hold_seconds": 1}}),
        "exceeds_held": ("POST", f"{held}/confirm", {"json": too_many}),
    }  # fmt: skip
    method, path, sent = requests[code]
    return path, await client.request(method, path, **sent)


@pytest.mark.parametrize(
    ("code", "status", "same_seq", "fields"),
    [
        ("invalid_request", 400, True, {"errors"}),
        ("unauthenticated", 401, True, set()),
        ("forbidden", 403, True, set()),
        ("not_found", 404, True, set()),
        ("unknown_sku", 404, True, {"unknown"}),
        ("method_not_allowed", 405, True, set()),
        ("not_acceptable", 406, True, set()),
        ("too_large", 413, True, set()),
        ("unsupported_media_type", 415, True, set()),
        ("insufficient_stock", 409, False, {"shortages", "reservation_id"}),
        ("adjustment", 409, True, {"shortages"}),
        ("illegal_transition", 409, True, {"state", "allowed"}),
        ("exceeds_refundable", 409, True, {"refundable"}),
        ("stock_in_use", 409, True, set()),
        ("version_mismatch", 412, True, {"current"}),
        ("precondition_required", 428, True, set()),
        ("idempotency_mismatch", 422, False, {"field", "stored", "sent"}),
        ("exceeds_held", 422, True, set()),
    ],
)
async def test_every_problem_has_its_status_its_flags_and_its_fields(
    service, code, status, same_seq, fields
):
    path, response = await provoke(service, code)
    problem = response.json()
    code = "insufficient_stock" if code == "adjustment" else code
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert set(problem) >= MEMBERS | fields
    assert problem["type"] == f"/problems/{code.replace('_', '-')}"
    assert (problem["retryable"], problem["same_seq"]) == (False, same_seq)
    assert problem["instance"] == path
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert problem["title"]
    assert problem["detail"]


async def test_every_code_has_a_page_that_explains_it(service):
    codes = [
        "invalid-request", "unauthenticated", "forbidden", "not-found", "unknown-sku",
        "method-not-allowed", "not-acceptable", "too-large", "unsupported-media-type",
        "insufficient-stock", "illegal-transition", "exceeds-refundable", "stock-in-use",
        "version-mismatch", "precondition-required", "idempotency-mismatch", "exceeds-held",
        "rate-limited", "contention", "overloaded", "unavailable", "outcome-unknown",
    ]  # fmt: skip
    for code in codes:
        del service.client.headers["Authorization"]
        page = await service.client.get(f"/problems/{code}")
        assert page.status_code == 200, code
        assert page.headers["Content-Type"].startswith("text/html")
        assert code.replace("-", "_") in page.text
        service.client.headers["Authorization"] = "none"


async def test_a_401_says_how_to_authenticate(service):
    for authorization in ("", "Bearer", "Bearer ", "Basic eDp5", "Bearer x", "Bearer é"):
        headers = {"Authorization": authorization.encode()}
        response = await service.client.get("/v1/stock", headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
        assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/reservations", {"GET", "POST"}),
        ("GET", "/v1/reservations/batch", {"POST"}),
        ("DELETE", UNKNOWN, {"GET"}),
        ("GET", f"{UNKNOWN}/confirm", {"POST"}),
        ("POST", "/v1/stock/A/main", {"GET", "PUT", "DELETE"}),
        ("PATCH", "/v1/stock", {"GET"}),
        ("GET", "/v1/imports", {"POST"}),
        ("POST", "/v1/audit", {"GET"}),
        ("POST", "/health/live", {"GET"}),
    ],
)
async def test_a_405_lists_the_allowed_methods(service, method, path, allowed):
    response = await service.client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    listed = {name.strip() for name in response.headers["Allow"].split(",")}
    assert listed >= allowed
    assert listed - allowed <= {"HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200), ("*/*", 200), ("application/*;q=0.5", 200),
        ("text/html, application/json", 200), ("Application/JSON; charset=utf-8", 200),
        ("text/html", 406), ("application/json;q=0", 406), ("image/*, text/*", 406),
        ("application/xml", 406), ("application/json;q=0.000, text/html", 406),
    ],
)  # fmt: skip
async def test_an_accept_header_that_excludes_json_is_406(service, accept, status):
    response = await service.client.get("/v1/stock", headers={"Accept": accept})
    assert response.status_code == status


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/json; charset=latin-1", "x", "text/csv",
     "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"],
)  # fmt: skip
async def test_other_media_types_of_a_body_are_415(service, content_type):
    for path in ("/v1/reservations", "/v1/reservations/batch", f"{UNKNOWN}/confirm"):
        headers = {"Content-Type": content_type}
        response = await service.client.post(path, content=b"{}", headers=headers)
        assert response.status_code == 415


async def test_a_content_encoding_is_415(service):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await service.client.post("/v1/reservations", content=b"x", headers=headers)
    assert response.status_code == 415


async def chunks(size):
    for _ in range(size // 65_536):
        yield b" " * 65_536
    yield b" " * (size % 65_536)


@pytest.mark.parametrize(
    ("path", "limit", "media_type"),
    [
        ("/v1/reservations", 1, "application/json"),
        ("/v1/reservations/batch", 4, "application/json"),
        ("/v1/imports?job=x", 4, "text/csv"),
        (f"{UNKNOWN}/confirm", 1, "application/json"),
        (f"{UNKNOWN}/refunds", 1, "application/json"),
        ("/v1/stock/A/main/adjustments", 1, "application/json"),
    ],
)
async def test_a_body_over_the_limit_is_413_with_and_without_a_content_length(
    service, path, limit, media_type
):
    limit *= 1024 * 1024
    headers = {"Content-Type": media_type}
    for content in (b" " * (limit + 1), chunks(limit + 1), chunks(10 * 1024 * 1024)):
        response = await service.client.post(path, content=content, headers=headers)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
    within = await service.client.post(path, content=b" " * limit, headers=headers)
    assert within.status_code in (400, 404)


async def test_a_caller_beyond_its_own_limit_gets_429(database_url):
    async with running_service(database_url, rate_limit=3) as service:
        answers = [await service.client.get("/v1/stock") for _ in range(30)]
    refused = [r for r in answers if r.status_code == 429]
    assert refused
    problem = refused[0].json()
    assert (problem["code"], problem["retryable"], problem["same_seq"]) == (
        "rate_limited", True, True,
    )  # fmt: skip
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert problem["retry_after"] == int(refused[0].headers["Retry-After"])


async def test_an_unknown_address_is_answered_with_a_problem_document_too(service):
    for path in ("/nowhere", "/v1", "/v1/reservations/a/b/c/d", "/v2", "/%00", "/%ff"):
        response = await service.client.get(path)
        assert response.status_code == 404, path
        assert response.headers["Content-Type"] == "application/problem+json"
        assert set(response.json()) >= MEMBERS


@pytest.mark.parametrize("path", ["/v1/stock//A/main", "/v1/stock/A/main/", "/v1//stock"])
async def test_a_path_with_an_empty_segment_is_not_found(service, path):
    await service.stock("A", 1)
    for method in ("GET", "DELETE"):
        response = await service.client.request(method, f"http://holdfast{path}")
        assert response.status_code == 404
        assert response.json()["instance"] == path
    assert await service.on_hand("A") == (1, 0)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json;q=0, */*", 406),
        ("text/html, */*;q=0.1", 200),
        ("application/*", 200),
        ("text/html", 406),
    ],
)
async def test_the_most_specific_accepted_media_type_decides(service, accept, status):
    response = await service.client.get("/v1/stock", headers={"Accept": accept})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/reservations", "/v1/reservations"),
        ("/stock/A/main", "/v1/stock"),
        ("/v1/reservation", "/v1/reservations"),
        ("/v1/import", "/v1/imports"),
        (f"{UNKNOWN}/refund", "/v1/reservations/{id}/refunds"),
        (f"{UNKNOWN}/confrim", "/v1/reservations/{id}/confirm"),
        ("/v1/stock/A/main/adjustment", "/v1/stock/{sku}/{location}/adjustments"),
        ("/v1/nothing", None),
        ("/nothing/at/all", None),
    ],
)
async def test_a_404_names_the_most_similar_address(service, path, meant):
    for method in ("GET", "POST"):
        problem = (await service.client.request(method, path)).json()
        assert (problem["status"], problem["code"]) == (404, "not_found")
        hint = f" Did you mean {meant}?" if meant else ""
        assert problem["detail"] == f"There is nothing at this address.{hint}"


async def test_the_error_about_a_seq_in_place_of_an_id_tells_the_remedy(service):
    await service.stock("A", 1)
    await service.reserve("order-1", ("A", 1))
    for path in ("", "/movements", "/refunds"):
        problem = (await service.client.get(f"/v1/reservations/order-1{path}")).json()
        assert problem["status"] == 404
        assert "/v1/reservations?seq=" in problem["detail"]
        assert "order-1" not in problem["detail"]
    refund = (await service.client.get(f"{UNKNOWN}/refunds/x")).json()
    assert refund["detail"] == "There is no such reservation."


async def test_the_error_about_an_unknown_sku_names_it(service):
    await service.stock("A", 1)
    one = (await service.reserve("1", ("A", 1), ("B", 1))).json()
    many = (await service.reserve("1", ("{C}", 1), ("D", 1), ("E", 1))).json()
    assert one["detail"] == "B is not stocked at main."
    assert many["detail"] == "D is not stocked at main, nor are 2 others."
    body = {"seq": "1", "delta": 1, "reason": "r"}
    adjusted = await service.client.post("/v1/stock/B/north/adjustments", json=body)
    assert adjusted.json()["detail"] == "B is not stocked at north."


async def test_a_page_about_an_error_escapes_its_text_and_marks_code(service):
    page = (await service.client.get("/problems/insufficient-stock")).text
    assert "<code>shortages</code> lists every line" in page
    assert "uses a new seq" in page
    assert "&#34;same_seq&#34;: false" in page
    described = (await service.client.get("/schema")).text
    assert "Needs a key with the scope <code>read</code>." in described
    assert "The <code>next_cursor</code> of the previous page." in described
