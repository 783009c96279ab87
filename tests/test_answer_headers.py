"""The headers that protect an answer: what may store it, compress it, and time it."""

import pytest

from tests.test_page import browser, sign_in

HTML = {"Accept": "text/html", "Accept-Encoding": "gzip"}


@pytest.fixture
async def answers(service):
    """One answer of each kind, with its request."""
    await service.stock("A", 5)
    client = service.client
    requests = [
        ("GET", "/v1/stock/A/main", {}),
        ("HEAD", "/v1/stock/A/main", {}),
        ("GET", "/v1/stock/A/main", {"If-None-Match": '"1"'}),
        ("GET", "/v1/nothing", {}),
        ("GET", "/v1/stock", {"Authorization": ""}),
        ("OPTIONS", "/v1/stock", {}),
        ("PATCH", "/v1/stock", {}),
        ("POST", "/v1/reservations", {}),
        ("DELETE", "/v1/stock/B/main", {}),
        ("GET", "/health/live", {}),
        ("GET", "/metrics", {}),
        ("GET", "/schema", {}),
        ("GET", "/schema/openapi.json", {}),
        ("GET", "/problems/not-found", {}),
        ("GET", "/assets/page.css", {}),
        ("GET", "/", HTML),
        ("GET", "/sign-in", HTML),
        ("GET", "/nothing", HTML),
    ]
    return [
        (method, path, await client.request(method, path, headers=headers))
        for method, path, headers in requests
    ]


async def test_every_answer_keeps_its_media_type(answers):
    for _, path, answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path


async def test_no_answer_has_a_header_twice(answers):
    for _, path, answer in answers:
        names = [name for name, _ in answer.headers.multi_items()]
        assert len(names) == len(set(names)), path


async def test_only_good_answers_are_timed(answers):
    for method, path, answer in answers:
        timing = answer.headers.get("Server-Timing")
        if answer.status_code < 300:
            name, _, milliseconds = timing.partition(";dur=")
            assert name == "total"
            assert float(milliseconds) > 0
        else:
            assert timing is None, (method, path)


async def test_reads_of_the_api_are_checked_before_each_use_and_the_rest_is_not_stored(answers):
    for method, path, answer in answers:
        if path.startswith("/v1"):
            is_read = method in ("GET", "HEAD")
            expected = "private, no-cache" if is_read else "no-store"
            assert answer.headers["Cache-Control"] == expected, (method, path)


async def test_each_answer_that_may_be_compressed_varies_however_short_it_is(answers):
    for method, path, answer in answers:
        is_page = "no-store" in answer.headers.get("Cache-Control", "") and path[:3] != "/v1"
        is_empty = answer.status_code in (204, 303)
        varies = answer.headers.get("Vary") == "accept-encoding"
        assert varies == (not is_page and not is_empty), (method, path)


async def test_a_page_with_tokens_is_neither_compressed_nor_stored(service):
    for number in range(30):
        await service.stock(f"SKU-{number}", 5, name="A name that makes the page long")
    async with browser(service) as page:
        await sign_in(service, page)
        answer = await page.get("/", headers={"Accept-Encoding": "gzip"})
        assert len(answer.content) > 2048
        assert "token" in answer.text
        assert "Content-Encoding" not in answer.headers
        assert "Vary" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"


async def test_an_answer_with_a_key_is_neither_compressed_nor_stored(service):
    body = {"seq": "1", "source": "shop-us", "scopes": ["read"], "label": "é" * 64}
    answer = await service.client.post("/v1/keys", json=body, headers={"Accept-Encoding": "gzip"})
    assert answer.status_code == 201
    assert answer.json()["key"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/schema", "/problems/not-found", "/sign-in", "/nothing", "/reservations/nothing"]
)
async def test_every_page_forbids_foreign_content_frames_and_referrers(service, path):
    for headers in (HTML, {**HTML, "Authorization": ""}):
        answer = await service.client.get(path, headers=headers, follow_redirects=True)
        assert answer.headers["Content-Type"].startswith("text/html")
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        for part in ("base-uri 'none'", "frame-ancestors 'none'", "form-action"):
            assert part in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert answer.headers["Referrer-Policy"] == "no-referrer"
