"""The proxies in front of the service, and the client that a request comes from.

`X-Forwarded-For` and `X-Forwarded-Proto` are read only if the peer is a trusted proxy: every client
can send these headers, and a proxy that is not trusted may pass them on unchecked.
"""

import re
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAPPED_BITS = 96  # of an IPv6 network, before the IPv4 address that it maps (RFC 4291, 2.5.5.2)

HOPS_MAX = 32
"""Entries of X-Forwarded-For that are read, from the right; a chain of proxies has fewer."""
ENTRY_MAX = 64
"""Bytes of an entry: an IPv6 address in brackets with a port has at most 53."""

_ENTRY = re.compile(
    rb"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?"  # IPv6 in brackets, perhaps with a port
    rb"|([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::[0-9]{1,5})?"  # IPv4, perhaps with a port
    rb"|([0-9A-Fa-f:.]+)"  # IPv6 alone
)


class TrustedProxies:
    """The addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` count."""

    def __init__(self, text: str = "") -> None:
        """Read addresses and networks that commas divide. Raises `ValueError` with the remedy."""
        self.networks = [_network(each.strip()) for each in text.split(",") if each.strip()]

    def trusts(self, peer: str) -> bool:
        """True when this peer of a connection is a trusted proxy."""
        address = parsed(peer) if self.networks else None
        return address is not None and self._contains(address)

    def client_of(self, peer: str, forwarded_for: bytes | None) -> str:
        """Return the address of the client: the rightmost one that is not a trusted proxy.

        `forwarded_for` has all lines of X-Forwarded-For in their order. Each proxy appends the
        address of its own peer, so only the entries to the right of the client's own are reliable.
        The walk from right to left ends at the first entry that is not an address. If it finds no
        client, the answer is the peer.
        """
        address = parsed(peer)
        if address is None:
            return "unknown"
        if forwarded_for is None or not self.networks or not self._contains(address):
            return str(address)
        for entry in reversed(forwarded_for.rsplit(b",", HOPS_MAX)[-HOPS_MAX:]):
            found = _entry(entry.strip(b" \t"))
            if found is None:
                break
            if not self._contains(found):
                return str(found)
        return str(address)

    def _contains(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


@lru_cache(maxsize=4096)
def parsed(text: str) -> Address | None:
    """Return an address without its zone; an IPv4 address in IPv6 form becomes IPv4."""
    try:
        return _plain(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def _entry(entry: bytes) -> Address | None:
    """The address in an entry of X-Forwarded-For, without brackets and port."""
    found = _ENTRY.fullmatch(entry) if len(entry) <= ENTRY_MAX else None
    return found and parsed((found[1] or found[2] or found[3]).decode())


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _network(text: str) -> Network:
    """An address or a network of the setting; networks of IPv4 in IPv6 form become IPv4."""
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"trusted-proxies has {text!r}, which is neither an address nor a network ({error});"
            " write for example 10.0.0.7, 10.0.0.0/8 or fd00::/8"
        ) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < MAPPED_BITS:
        return network
    return ip_network((mapped, network.prefixlen - MAPPED_BITS))
