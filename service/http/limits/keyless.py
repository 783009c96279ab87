"""Requests without a valid key, counted by address: a flood of them is answered 429, not 401.

A valid key is never refused for its address. So an address that is counted wrongly costs its user
nothing but the reason of a refusal.
"""

import ipaddress
import math
import time

from service.domain.errors import RateLimited, Unauthenticated

REQUESTS_MAX = 300
"""Requests in a window that get 401, from one address and over all workers."""
WINDOW_SECONDS = 60.0
ADDRESSES_MAX = 10_000
"""Addresses that are counted one by one. In a window with more of them, all further ones share one
count: to forget the oldest would let a client with many addresses reset every count."""
NETWORK_BITS = 64
"""The part of an IPv6 address that is counted: a client usually has all addresses of a /64."""
FURTHER = "further addresses"


class _Window:
    """The requests of an address since the first one, for a minute."""

    __slots__ = ("count", "ends_at")

    def __init__(self, ends_at: float) -> None:
        self.count = 0
        self.ends_at = ends_at


class KeylessRequests:
    """The requests without a valid key of a worker, which has a share of the limit."""

    def __init__(self, workers: int) -> None:
        self.requests_max = math.ceil(REQUESTS_MAX / workers)
        self._windows: dict[str, _Window] = {}
        """By address, in the order in which they end."""

    def refusal(self, address: str, error: Unauthenticated) -> Unauthenticated | RateLimited:
        """Count a request; return `error`, or `RateLimited` beyond the limit of its address."""
        now = time.monotonic()
        window = self._window_of(network_of(address), now)
        window.count += 1
        if window.count <= self.requests_max:
            return error
        return RateLimited(
            f"More than {REQUESTS_MAX} requests a minute without a valid key came from this"
            " address. Send a valid key.",
            retry_after_seconds=max(math.ceil(window.ends_at - now), 1),
        )

    def _window_of(self, network: str, now: float) -> _Window:
        window = self._windows.get(network)
        if window is not None and window.ends_at > now:
            return window
        self._drop_ended(now)
        if len(self._windows) >= ADDRESSES_MAX and network != FURTHER:
            return self._window_of(FURTHER, now)
        window = self._windows[network] = _Window(now + WINDOW_SECONDS)
        return window

    def _drop_ended(self, now: float) -> None:
        while self._windows:
            first = next(iter(self._windows))
            if self._windows[first].ends_at > now:
                break
            del self._windows[first]


def network_of(address: str) -> str:
    """Return the part of an address that is counted: IPv4 as it is, of IPv6 the first 64 bits."""
    try:
        read = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]  # such as the name of a socket
    if isinstance(read, ipaddress.IPv4Address):
        return str(read)
    if read.ipv4_mapped is not None:
        return str(read.ipv4_mapped)
    return str(ipaddress.ip_network((int(read), NETWORK_BITS), strict=False))
