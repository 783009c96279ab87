"""The open connections of each client's address, counted over all workers of a service.

The counts are in memory that the workers share. Each worker has a row of cells and writes no other,
so no lock is needed: the count of an address is the sum of its cells over all rows. An address has
two cells in each row, and the smaller of its two sums counts: it is never too low, and it is too
high only if other addresses share both cells (a count-min sketch, Cormode and Muthukrishnan 2005).
"""

import mmap
from dataclasses import dataclass
from ipaddress import IPv6Address

from service.input.proxies import TrustedProxies, parsed

CELLS = 32 * 1024  # in each of the two halves of a row; 10,000 addresses collide seldom in both
CELL_BYTES = 2  # a worker has at most 10,000 connections
ROWS_EXTRA = 8  # for workers that still drain while their successors serve
IPV6_NETWORK_BYTES = 8  # a /64 is one client: it may use any address in it
TLS_FACTOR = 2
"""Beyond so many times the limit a client of TLS gets no answer, since that needs a handshake."""


class ConnectionTable:
    """The shared memory, made by the supervisor before it starts the workers."""

    def __init__(self, workers: int) -> None:
        self.rows = rows_for(workers)
        size = self.rows * 2 * CELLS * CELL_BYTES
        self.cells = memoryview(mmap.mmap(-1, size)).cast("H")  # unused pages take no memory

    def clear(self, row: int) -> None:
        """Forget the connections of a worker that has ended."""
        start = row * 2 * CELLS
        self.cells[start : start + 2 * CELLS] = memoryview(bytes(2 * CELLS * CELL_BYTES)).cast("H")

    def total(self, place: tuple[int, int]) -> int:
        """Return the number of open connections of an address, given its cells in a row."""
        first, second = place
        cells, width = self.cells, 2 * CELLS
        return min(
            sum(cells[row * width + first] for row in range(self.rows)),
            sum(cells[row * width + second] for row in range(self.rows)),
        )


def rows_for(workers: int) -> int:
    """Return the number of workers that may run at once; a renewal starts all of them anew."""
    return 2 * workers + ROWS_EXTRA


@dataclass(frozen=True, slots=True)
class Place:
    """The place that a connection takes among those of its address."""

    cells: tuple[int, int]
    is_excess: bool
    """The address has more connections than it may."""
    is_far_beyond: bool
    """It has more than `TLS_FACTOR` times as many."""


class AddressLimit:
    """The limit on the open connections of an address, in one worker."""

    def __init__(
        self, table: ConnectionTable, row: int, connections_max: int, proxies: TrustedProxies
    ) -> None:
        self.table = table
        self.connections_max = connections_max
        self.proxies = proxies
        self._start = row * 2 * CELLS

    def enter(self, peer: str) -> Place | None:
        """Count a connection of this peer; None for a trusted proxy, which has no limit."""
        if self.proxies.trusts(peer):
            return None
        cells = _cells_of(peer)
        for cell in cells:
            self.table.cells[self._start + cell] += 1
        count = self.table.total(cells)  # after the own cells: two workers at once both see both
        return Place(
            cells,
            is_excess=count > self.connections_max,
            is_far_beyond=count > TLS_FACTOR * self.connections_max,
        )

    def leave(self, place: Place) -> None:
        """Count a connection no longer."""
        for cell in place.cells:
            self.table.cells[self._start + cell] -= 1


def _cells_of(peer: str) -> tuple[int, int]:
    """The cells of an address in a row.

    The hash has a secret that all workers inherit, so nobody can choose addresses that collide.
    """
    address = parsed(peer)
    client = peer.encode() if address is None else address.packed
    if isinstance(address, IPv6Address):
        client = client[:IPV6_NETWORK_BYTES]
    hashed = hash(client)
    return hashed % CELLS, CELLS + (hashed >> 32) % CELLS
