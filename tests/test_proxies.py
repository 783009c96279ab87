"""The address of a client and its use of TLS, as far as trusted proxies tell them."""

import pytest
import structlog
from pydantic import ValidationError

from service.input.proxies import HOPS_MAX, TrustedProxies
from service.settings import Settings

PROXY = "10.0.0.1"
PROXIES = TrustedProxies("10.0.0.0/8, 192.0.2.7 ,fd00::/8,2001:db8::7")


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("10.255.0.1", True), ("11.0.0.1", False), ("192.0.2.7", True), ("192.0.2.8", False),
        ("fd12::1", True), ("fe80::1%eth0", False), ("2001:db8::7", True), ("2001:db8::8", False),
        ("::ffff:10.0.0.9", True), ("::ffff:11.0.0.9", False), ("", False), ("unix", False),
    ],
)  # fmt: skip
def test_a_peer_is_trusted_by_its_address_or_network(peer, is_trusted):
    assert PROXIES.trusts(peer) == is_trusted
    assert not TrustedProxies().trusts(peer)


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"])
def test_an_ipv4_network_in_ipv6_form_trusts_the_same_proxies(network):
    assert TrustedProxies(network).trusts("10.0.0.1")
    assert TrustedProxies(network).trusts("::ffff:10.0.0.1")
    assert not TrustedProxies(network).trusts("11.0.0.1")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        # The peer is not a proxy, so its header does not count.
        ("203.0.113.9", b"198.51.100.1", "203.0.113.9"),
        ("::ffff:203.0.113.9", None, "203.0.113.9"),
        ("fe80::1%eth0", None, "fe80::1"),
        # The rightmost address that is not a proxy.
        (PROXY, None, PROXY),
        (PROXY, b"198.51.100.1", "198.51.100.1"),
        (PROXY, b"1.1.1.1, 198.51.100.1", "198.51.100.1"),
        (PROXY, b"1.1.1.1,198.51.100.1 , 10.9.9.9,\t192.0.2.7", "198.51.100.1"),
        (PROXY, b"2001:db8::1", "2001:db8::1"),
        (PROXY, b"2001:DB8:0:0::1", "2001:db8::1"),
        # Ports and brackets, as some proxies add them.
        (PROXY, b"198.51.100.1:4711", "198.51.100.1"),
        (PROXY, b"[2001:db8::1]:4711", "2001:db8::1"),
        (PROXY, b"[2001:db8::1]", "2001:db8::1"),
        (PROXY, b"::ffff:198.51.100.1", "198.51.100.1"),
        (PROXY, b"[::ffff:10.1.2.3]:80", PROXY),
        # The walk ends at an entry that is not an address: nothing to its left is reliable.
        (PROXY, b"198.51.100.1, unknown", PROXY),
        (PROXY, b"198.51.100.1, unknown, 10.0.0.2", PROXY),
        (PROXY, b"unknown, 198.51.100.1", "198.51.100.1"),
        (PROXY, b"198.51.100.1,", PROXY),
        (PROXY, b"198.51.100.1, _hidden", PROXY),
        # All are proxies.
        (PROXY, b"10.0.0.3, 10.0.0.2", PROXY),
        ("2001:db8::7", b"fd00::1", "2001:db8::7"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_not_a_proxy(peer, forwarded_for, client):
    assert PROXIES.client_of(peer, forwarded_for) == client


@pytest.mark.parametrize(
    "entry",
    [
        b"", b" ", b"null", b"unknown", b"999.1.1.1", b"1.1.1", b"1.1.1.1.1", b"01.1.1.1",
        b"1.1.1.1:", b"1.1.1.1:port", b"1.1.1.1:999999", b"[::1", b"::1]", b"[::1]:", b"[]",
        b"[1.1.1.1]x", b":::", b"::1%eth0", b"1.1.1.1/32", b"\xff\xfe", b"1.1.1.1\x00", b"a" * 500,
        "\u0661.1.1.1".encode(), b"0x7f.1.1.1", b"2130706433", b'"1.1.1.1"', b"for=1.1.1.1",
        b"1.1.1.1;2.2.2.2", b"1.1.1.1 2.2.2.2", b"<script>",
    ],
)  # fmt: skip
def test_a_malformed_entry_is_never_a_client(entry):
    assert PROXIES.client_of(PROXY, entry) == PROXY
    assert PROXIES.client_of(PROXY, b"198.51.100.1," + entry) == PROXY


def test_a_long_chain_is_read_only_in_part():
    hops = b",".join([b"10.0.0.2"] * (HOPS_MAX - 1))
    assert PROXIES.client_of(PROXY, b"198.51.100.1," + hops) == "198.51.100.1"
    assert PROXIES.client_of(PROXY, b"198.51.100.1,10.0.0.2," + hops) == PROXY
    assert PROXIES.client_of(PROXY, b"," * 30_000) == PROXY


@pytest.mark.parametrize(
    "text", ["proxy", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1;10.0.0.2", "*", "fd00::/129", "[::1]"]
)
def test_a_setting_that_is_not_an_address_or_network_is_refused_at_start(text):
    with pytest.raises(ValidationError, match=r"trusted-proxies has .* write for example"):
        Settings(trusted_proxies=f"10.0.0.1,{text}")


async def test_the_log_names_the_client_behind_a_trusted_proxy(service):
    """The client of these tests is at 127.0.0.1."""
    forwarded = {"X-Forwarded-For": "1.1.1.1, 198.51.100.1", "Authorization": "Bearer nonsense"}
    with structlog.testing.capture_logs() as lines:
        await service.client.get("/v1/stock", headers=forwarded)
        service.app.worker.proxies = TrustedProxies("127.0.0.0/8")
        await service.client.get("/v1/stock", headers=forwarded)
    addresses = [line["address"] for line in lines if line["event"] == "refused"]
    assert addresses == ["127.0.0.1", "198.51.100.1"]


@pytest.mark.parametrize(
    ("value", "is_secure"),
    [
        ("https", True), ("HTTPS", True), ("http", False), ("", False), ("https, http", False),
        ("http, https", False), ("https,https", False), ("https://", False), ("wss", False),
        ("\xff", False), ("https\x00", False), ("h" * 5000, False),
    ],
)  # fmt: skip
async def test_only_https_from_a_trusted_proxy_makes_the_cookie_secure(service, value, is_secure):
    key = (await service.key("shop-eu", "read"))["Authorization"].removeprefix("Bearer ")
    headers = {"X-Forwarded-Proto": value.encode("latin-1"), "Authorization": ""}
    for proxies, expected in (("", False), ("127.0.0.1", is_secure)):
        service.app.worker.proxies = TrustedProxies(proxies)
        answer = await service.client.post("/sign-in", data={"key": key}, headers=headers)
        assert answer.status_code == 303
        assert ("Secure" in answer.headers["set-cookie"]) == expected


async def test_behind_tls_a_form_of_a_page_without_tls_is_refused(service):
    service.app.worker.proxies = TrustedProxies("127.0.0.1")
    for origin, proto, status in (
        ("http://holdfast", "https", 403),
        ("https://holdfast", "https", 401),
        ("http://holdfast", "http", 401),
        ("https://holdfast", "http", 401),
    ):
        headers = {"Origin": origin, "X-Forwarded-Proto": proto}
        answer = await service.client.post("/sign-in", data={"key": "x"}, headers=headers)
        assert answer.status_code == status, (origin, proto)
