"""The values that define an experiment: clients, stock, orders, strategy and fault."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

LOCATION = "main"
SOURCE = "lab"
HOLD_SECONDS = 900
"""Longer than any experiment, so that no hold expires in one."""

FAULT_NAMES = ("none", "kill", "pause", "drop")


@dataclass(frozen=True, slots=True)
class Experiment:
    """The values of one run. The same values and seed give the same orders."""

    strategy: str = "guard"
    clients: int = 64
    """Number of clients that send concurrently; unused with `rate`."""
    skus: int = 10
    zipf: float = 0.0
    """The exponent of popularity: with 0 all SKUs are equally popular, 1 is typical of the web
    (Breslau et al., 1999)."""
    lines: int = 1
    """Number of different SKUs in an order, one unit each."""
    stock: int = 1_000_000
    """Units of each SKU at the start."""
    seconds: float = 5.0
    merge: bool = True
    """Merge waiting requests into one transaction."""
    lanes: int = 4
    """Concurrent transactions of a service that does not merge; one that merges has one."""
    hold: float = 0.0
    """Share of orders that begin as holds. Half of them are confirmed, half are cancelled."""
    refund: float = 0.0
    """Share of sales that are refunded."""
    twins: float = 0.02
    """Share of orders that are sent through every service concurrently, with the same seq."""
    fault: str = "none"
    rate: float = 0.0
    """Orders per second in total, sent whether others are answered or not; 0 is a closed loop."""
    processes: int = 2
    """Operating-system processes. A single one runs two services, so that they compete."""
    seed: int = 1
    retry_share: float = 0.1
    """The retry budget, as HOLDFAST_RETRY_SHARE."""
    redis_url: str | None = None
    zookeeper_hosts: str | None = None

    @property
    def services_per_process(self) -> int:
        """Return the number of services in a process, each with its own ledger and pool."""
        return 2 if self.processes == 1 else 1

    @property
    def services(self) -> int:
        """Return the total number of services."""
        return self.processes * self.services_per_process

    @property
    def sku_names(self) -> list[str]:
        """Return the SKUs, the most popular one first."""
        return [f"sku-{number:05}" for number in range(self.skus)]

    @property
    def title(self) -> str:
        """Return the main values in a few words."""
        crowd = f"{self.rate:g} orders/s" if self.rate else f"{self.clients} clients"
        shop = f"{self.skus} SKU{'s' if self.skus > 1 else ''}"
        popularity = f", Zipf {self.zipf:g}" if self.zipf else ""
        merging = "merged" if self.merge else "one transaction per request"
        fault = "" if self.fault == "none" else f", fault: {self.fault}"
        return f"{crowd}, {shop}{popularity}, {self.lines} per order, {merging}{fault}"


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "hot": {"skus": 1, "clients": 64},
        "zipf": {"skus": 1000, "zipf": 1.1, "lines": 2, "hold": 0.3, "refund": 0.1},
        "crossed-orders": {"skus": 6, "lines": 3, "clients": 64, "refund": 0.2},
        "flash-sale": {"skus": 1, "stock": 500, "clients": 200},
    }
)
"""The presets of single experiments; `claims.py` has the preset `claims`, a series of them."""
