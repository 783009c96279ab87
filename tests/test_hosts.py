"""Only requests that name an allowed host are answered, if the operator names the hosts."""

import pytest
from pydantic import ValidationError

from service.input.hosts import AllowedHosts
from service.settings import Settings
from tests.conftest import running_service

NAMES = "shop.example.com, *.Example.org,10.0.0.7,[2001:DB8::1],::1"


@pytest.mark.parametrize(
    "host",
    [
        b"shop.example.com", b"SHOP.example.com", b"shop.example.com:8443", b"shop.example.com:",
        b"shop.example.com.", b"shop.example.com.:80", b"a.example.org", b"a.b.example.org:1",
        b"10.0.0.7", b"10.0.0.7:8000", b"[2001:db8::1]", b"[2001:db8:0::1]:8000", b"[::1]",
    ],
)  # fmt: skip
def test_an_allowed_host_is_compared_without_port_and_case(host):
    assert AllowedHosts(NAMES).allows(host)


@pytest.mark.parametrize(
    "host",
    [
        b"", b" ", b"example.com", b"example.org", b".example.org", b"a..example.org",
        b"evilexample.org", b"a.example.org.evil.example", b"shop.example.com.evil.example",
        b"shop.example.com..", b"shop.example.com:80:80", b"shop.example.com:http",
        b"shop.example.com@evil.example", b"evil.example#shop.example.com",
        b"evil.example/shop.example.com", b"shop.example.com, evil.example",
        b"shop.example.com evil.example", b"http://shop.example.com", b"user@shop.example.com",
        b"shop.example.com\x00", b"shop.example.com\xff", b"\xff", b"*", b"*.example.org",
        b"10.0.0.70", b"167772167", b"0x0a.0.0.7", b"::1", b"[::1", b"[]",
        b"[2001:db8::2]", b"[10.0.0.7]", b"[::1%25eth0]", b"a" * 400 + b".example.org",
        b"localhost", b"holdfast", b"null", b"../../etc/passwd", b"<script>",
    ],
)  # fmt: skip
def test_another_host_is_not_allowed(host):
    assert not AllowedHosts(NAMES).allows(host)


@pytest.mark.parametrize(
    "text",
    ["http://a.example", "a.example:80", "a b", "*", "*.*.example", "a.*.example", "a/b", "é",
     "-a.example", "[::1]:80", "1::2::3", "a..example", ".example"],
)  # fmt: skip
def test_a_setting_that_is_not_a_host_name_is_refused_at_start(text):
    with pytest.raises(ValidationError, match=r"allowed-hosts has .* write names without"):
        Settings(allowed_hosts=f"a.example,{text}")


@pytest.fixture
async def walled(database_url):
    async with running_service(database_url, allowed_hosts="shop.example,*.example.org") as started:
        yield started


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/metrics"), ("GET", "/schema"),
        ("GET", "/problems/not-found"), ("GET", "/sign-in"), ("POST", "/sign-in"),
        ("GET", "/v1/stock"), ("HEAD", "/v1/stock"), ("OPTIONS", "/v1/stock"),
        ("GET", "/v1/nothing"), ("POST", "/v1/reservations"), ("GET", "/assets/page.css"),
    ],
)  # fmt: skip
async def test_every_request_for_another_host_is_400(walled, method, path):
    for host in ("evil.example", "holdfast", "127.0.0.1:8000", ""):
        answer = await walled.client.request(method, path, headers={"Host": host})
        assert answer.status_code == 400
        if method != "HEAD":
            problem = answer.json()
            assert problem["code"] == "invalid_request"
            assert problem["errors"][0]["path"] == "Host"
        assert not host or host not in answer.text
    for host in ("shop.example", "Shop.Example:8000", "a.example.org"):
        answer = await walled.client.request(method, path, headers={"Host": host})
        assert answer.status_code != 400 or path == "/v1/reservations"


async def test_without_the_setting_any_host_is_answered(service):
    for host in ("evil.example", "[::1", ""):
        headers = {"Host": host.encode("latin-1")}
        answer = await service.client.get("/health/live", headers=headers)
        assert answer.status_code == 200, (host, answer.text)
