"""Errors on the operator's page: unknown addresses, wrong methods, and too many requests."""

import pytest

from service.http import failures
from service.http.limits import bucket
from service.http.routes import pages
from tests.conftest import running_service
from tests.test_page import browser, form, reservations, sign_in

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
JSON_FIRST = ["*/*", "application/json", "text/html;q=0.5, */*", "text/html, application/json"]
NOWHERE = ["/nowhere", "/reservations", "/reservations/", "//", "/v2", "/%ff", "/reserve/<b>"]


@pytest.fixture
async def visitor(service):
    """A browser without a session."""
    async with browser(service, Accept=BROWSER) as client:
        yield client


def is_page(answer):
    return answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", NOWHERE)
async def test_a_browser_gets_a_page_for_an_unknown_address(visitor, path):
    answer = await visitor.get(f"http://holdfast{path}")
    assert (answer.status_code, is_page(answer)) == (404, True)
    assert "There is nothing at this address." in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/", {"GET"}), ("DELETE", "/reserve", {"GET", "POST"}), ("POST", "/", {"GET"})],
)
async def test_a_browser_gets_a_page_for_a_method_that_is_not_allowed(
    visitor, method, path, allowed
):
    answer = await visitor.request(method, path)
    assert (answer.status_code, is_page(answer)) == (405, True)
    assert {name.strip() for name in answer.headers["allow"].split(",")} >= allowed


@pytest.mark.parametrize("accept", JSON_FIRST)
async def test_a_client_that_does_not_prefer_html_gets_a_problem_document(visitor, accept):
    for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/", 405)):
        answer = await visitor.request(method, path, headers={"Accept": accept})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/nowhere", "/v1/stock/", "//v1/stock", "/health", "/metrics/x", "/schema/x",
     "/problems/x"],
)  # fmt: skip
async def test_addresses_of_the_api_answer_browsers_with_problem_documents_too(visitor, path):
    answer = await visitor.get(f"http://holdfast{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    wrong_method = await visitor.put("/v1/stock")
    assert wrong_method.status_code == 405
    assert wrong_method.headers["content-type"] == "application/problem+json"


def test_the_list_of_the_first_parts_of_api_addresses_is_complete(service):
    of_pages = {route.path for router in pages.ROUTES for route in router.routes}
    others = {route.path for route in service.app.routes} - of_pages
    assert {path.split("/")[1].encode() for path in others} == set(failures.API_ROOTS)


# The limit of one source


class Clock:
    """A clock that moves only on demand, so that a slow machine does not refill a bucket."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    still = Clock()
    monkeypatch.setattr(bucket, "time", still)
    return still


@pytest.fixture
async def limited(database_url, clock):
    """A service that allows each source three requests a second."""
    async with running_service(database_url, rate_limit=3) as started:
        yield started


def is_refused(answer):
    """Return True if the answer is the page that refuses a request beyond the limit."""
    if answer.status_code != 429:
        return False
    assert is_page(answer)
    assert answer.headers["retry-after"] == "1"
    assert "3 requests a second" in answer.text
    return True


async def test_signing_in_and_opening_pages_count_as_requests(limited, clock):
    async with browser(limited) as client:
        await sign_in(limited, client)
        refusals = [is_refused(await client.get(path)) for path in ("/", "/", "/", "/nothing")]
        assert refusals == [False, False, True, False]
        clock.seconds += 1
        refusals = [is_refused(await client.get("/")) for _ in range(4)]
        assert refusals == [False, False, False, True]


async def test_signing_in_too_often_is_refused(limited):
    key = (await limited.key("shop-eu", "read"))["Authorization"].removeprefix("Bearer ")
    async with browser(limited) as client:
        answers = [await client.post("/sign-in", data={"key": key}) for _ in range(4)]
    assert [is_refused(answer) for answer in answers] == [False, False, False, True]
    assert "set-cookie" not in answers[-1].headers


async def test_a_form_beyond_the_limit_changes_nothing_and_can_be_sent_again(limited, clock):
    async with browser(limited) as client:
        await limited.stock("A", 100)
        await sign_in(limited, client)
        sent = await form(client)
        await client.get("/")
        assert is_refused(await client.post("/reserve", data=sent))
        clock.seconds += 1
        assert await reservations(limited) == []
        assert (await client.post("/reserve", data=sent)).status_code == 303
        clock.seconds += 1
        assert await limited.on_hand("A") == (98, 0)


async def test_pages_and_api_share_the_limit_of_a_key(limited):
    async with browser(limited) as client:
        key = await sign_in(limited, client)
        headers = {"Authorization": f"Bearer {key}"}
        answers = [await limited.client.get("/v1/stock", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert is_refused(await client.get("/"))


async def test_all_keys_and_sessions_of_a_source_share_its_limit_and_another_has_its_own(limited):
    async with browser(limited) as one, browser(limited) as two, browser(limited) as other:
        key = await sign_in(limited, one)
        await two.post("/sign-in", data={"key": key})
        headers = await limited.key("shop-eu", "read")
        assert (await limited.client.get("/v1/stock", headers=headers)).status_code == 200
        assert is_refused(await two.get("/"))
        await sign_in(limited, other, source="shop-uk")
        assert (await other.get("/")).status_code == 200
