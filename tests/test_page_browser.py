"""The operator's page in a real browser: Debian's Chromium, driven by Playwright."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.certificates import new_pair
from tests.server import Server, running_server

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",  # tests run as root in CI
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS_MAX = 30.0  # for a page to appear: only a hang takes so long

if not CHROMIUM.exists() and os.environ.get("CI") != "true":
    pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium", allow_module_level=True)

from playwright.async_api import Browser, Page, async_playwright  # noqa: E402 - only where it is used


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    with running_server(database_url, workers=2) as started:
        yield started


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(server: Server, chromium: Browser) -> AsyncIterator[Page]:
    """A page with a session; it must log no error and load nothing from other hosts."""
    async with await chromium.new_context(base_url=server.url) as context:
        page = await context.new_page()
        page.set_default_timeout(SECONDS_MAX * 1000)
        faults: list[str] = []
        page.on(
            "console",
            lambda message: (
                faults.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(server.url) else faults.append(request.url)
            ),
        )
        await page.goto("/")
        await page.get_by_label("Key").fill(server.key)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("heading", name="Stock").wait_for()
        yield page
        assert faults == []


def put(server: Server, sku: str, available: int, **more: object) -> None:
    answer = httpx.put(
        f"{server.url}/v1/stock/{sku}/main",
        json={"available": available, **more},
        headers={**server.headers, "If-None-Match": "*"},
    )
    assert answer.status_code == 201


def reservations(server: Server) -> list[dict[str, object]]:
    answer = httpx.get(f"{server.url}/v1/reservations", headers=server.headers)
    items: list[dict[str, object]] = answer.json()["items"]
    return items


async def fill_in(page: Page, sku: str, quantity: int) -> None:
    form = page.get_by_role("region", name="Reserve")
    await form.get_by_label("SKU").fill(sku)
    await form.get_by_label("Quantity").fill(str(quantity))


async def result(page: Page) -> str:
    """The address of the result that is shown."""
    await page.get_by_role("heading", name="Reservation").wait_for()
    await page.get_by_text("confirmed", exact=True).wait_for()
    return page.url


async def test_a_double_click_makes_one_reservation_and_shows_it(server, page):
    put(server, "A", 10)
    await fill_in(page, "A", 2)
    await page.get_by_role("button", name="Reserve", exact=True).dblclick()
    address = await result(page)
    made = reservations(server)
    assert [f"{server.url}/reservations/{each['id']}" for each in made] == [address]


async def test_a_second_click_during_the_first_request_shows_its_result(server, page, database_url):
    """The row is locked until the browser has sent the form twice."""
    put(server, "A", 10)
    await fill_in(page, "A", 2)
    box = await page.get_by_role("button", name="Reserve", exact=True).bounding_box()
    assert box is not None
    session = await asyncpg.connect(database_url)
    try:
        async with session.transaction():
            await session.execute("SELECT FROM stock FOR UPDATE")
            forms = []
            for _ in range(2):
                async with page.expect_request("**/reserve") as sent:
                    await page.mouse.click(box["x"] + 5, box["y"] + 5)
                forms.append((await sent.value).post_data)
    finally:
        await session.close()
    assert forms[0] == forms[1]
    address = await result(page)
    made = reservations(server)
    assert [f"{server.url}/reservations/{each['id']}" for each in made] == [address]


async def test_every_page_is_styled_and_breaks_no_policy(server, page):
    """The fixture checks that the console is empty; it would name each thing that is blocked."""
    for path in ("/schema", "/problems/not-found", "/sign-in", "/"):
        await check_page(page, path)


async def test_the_page_of_an_error_is_styled_and_breaks_no_policy(server, chromium):
    async with await chromium.new_context(base_url=server.url) as context:
        page, faults = await context.new_page(), []
        page.on("console", lambda message: faults.append(message.text))
        await check_page(page, "/nothing")
        assert len(faults) == 1
        assert "404 (Not Found)" in faults[0]


async def check_page(page: Page, path: str) -> None:
    answer = await page.goto(path)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    rules = await page.evaluate("[...document.styleSheets].flatMap(s => [...s.cssRules]).length")
    assert rules > 5
    family = await page.evaluate("getComputedStyle(document.body).fontFamily")
    assert "Times" not in family


async def test_a_blocked_style_would_be_noticed(server, chromium):
    """The page of an error with one more style, which the policy does not allow."""
    async with await chromium.new_context(base_url=server.url) as context:
        page, faults = await context.new_page(), []
        page.on("console", lambda message: faults.append(message.text))

        async def spoil(route):
            answer = await route.fetch()
            body = (await answer.text()).replace("</head>", "<style>a{}</style></head>")
            await route.fulfill(response=answer, body=body)

        await page.route("**/problems/not-found", spoil)
        await page.goto("/problems/not-found")
        assert any("Content Security Policy" in fault for fault in faults)


async def test_a_form_names_its_origin_over_plain_http(server):
    """There the browser sends no Sec-Fetch-Site, and with `no-referrer` the Origin is `null`."""
    port = server.url.rsplit(":", 1)[1]
    rule = "--host-resolver-rules=MAP shop.test 127.0.0.1"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, rule]
        )
        page = await browser.new_page(base_url=f"http://shop.test:{port}")
        await page.goto("/")
        await page.get_by_label("Key").fill(server.key)
        async with page.expect_request("**/sign-in") as sent:
            await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("heading", name="Stock").wait_for()
        headers = await (await sent.value).all_headers()
        assert "sec-fetch-site" not in headers
        assert headers["origin"] == f"http://shop.test:{port}"
        await browser.close()


async def test_reload_and_back_show_the_first_result(server, page):
    put(server, "A", 10)
    await fill_in(page, "A", 2)
    await page.get_by_role("button", name="Reserve", exact=True).click()
    address = await result(page)
    await page.reload()
    assert await result(page) == address
    await page.go_back()
    await page.get_by_role("heading", name="Stock").wait_for()
    await page.go_forward()
    assert await result(page) == address
    assert len(reservations(server)) == 1


async def test_the_same_form_sent_again_from_a_second_tab_shows_the_first_result(server, page):
    """A browser may restore a form together with its token."""
    put(server, "A", 10)
    token = await page.locator("#reserve input[name=token]").input_value()
    await fill_in(page, "A", 2)
    await page.get_by_role("button", name="Reserve", exact=True).click()
    address = await result(page)
    tab = await page.context.new_page()
    await tab.goto("/")
    await tab.locator("#reserve input[name=token]").evaluate(
        "(field, token) => { field.value = token }", token
    )
    await fill_in(tab, "A", 2)
    await tab.get_by_role("button", name="Reserve", exact=True).click()
    assert await result(tab) == address
    assert len(reservations(server)) == 1


async def test_an_operator_reads_stock_reserves_refunds_and_signs_out(server, page):
    put(server, "A-1", 10, name="White hanging heart T-light holder")
    put(server, "A-2", 3, low_stock_at=5)
    put(server, "B-1", 0)
    await page.get_by_label("SKU begins with").fill("A-")
    await page.get_by_role("button", name="Search").click()
    await page.get_by_text("A-2", exact=True).wait_for()
    assert await page.get_by_text("B-1").count() == 0
    assert await page.get_by_text("low", exact=True).count() == 1
    await page.get_by_role("link", name="Reserve A-1 at main").click()
    form = page.get_by_role("region", name="Reserve")
    await form.get_by_label("Quantity").fill("4")
    await form.get_by_role("button").click()
    await result(page)
    await page.get_by_role("region", name="Refund").get_by_label("Quantity").fill("1")
    await page.get_by_role("button", name="Refund").click()
    await page.get_by_role("heading", name="Refund").wait_for()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("heading", name="Sign in").wait_for()
    await page.goto("/")
    await page.get_by_role("heading", name="Sign in").wait_for()
    (made,) = reservations(server)
    assert made["lines"][0]["refunded"] == 1


async def test_over_tls_the_session_is_in_a_cookie_for_this_host_only(
    database_url, chromium, tmp_path
):
    pair = new_pair(tmp_path)
    with running_server(database_url, trusted=pair.authority.trusted(), **pair.settings) as server:
        async with await chromium.new_context(
            base_url=server.url,
            ignore_https_errors=True,  # Chromium takes authorities only from its own store
        ) as context:
            page = await context.new_page()
            page.set_default_timeout(SECONDS_MAX * 1000)
            await page.goto("/")
            await page.get_by_label("Key").fill(server.key)
            await page.get_by_role("button", name="Sign in").click()
            await page.get_by_role("heading", name="Stock").wait_for()
            (cookie,) = await context.cookies()
            assert cookie["name"] == "__Host-holdfast"
            assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
            await page.get_by_role("button", name="Sign out").click()
            await page.get_by_label("Key").wait_for()
            assert await context.cookies() == []
