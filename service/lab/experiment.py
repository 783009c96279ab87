"""What an experiment is: a crowd, a shop, a strategy, and what goes wrong meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

LOCATION = "main"
SOURCE = "lab"
HOLD_SECONDS = 900
"""Longer than any experiment, so that no hold expires in one."""

FAULTS = ("none", "kill", "pause", "drop")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run. The same values with the same seed ask for the same things in the same order."""

    strategy: str = "guard"
    clients: int = 64
    """How many send at once, in all; with `rate` nobody waits for an answer and it is unused."""
    skus: int = 10
    zipf: float = 0.0
    """The exponent of popularity: 0 draws all SKUs alike, 1 is the web's (Breslau et al., 1999)."""
    lines: int = 1
    """Different SKUs in an order, one unit each."""
    stock: int = 1_000_000
    """Units of each SKU to begin with."""
    seconds: float = 5.0
    merge: bool = True
    """Whether requests that wait together become one transaction."""
    lanes: int = 4
    """Transactions under way at once in each service that does not merge; one that does has one."""
    hold: float = 0.0
    """Share of orders that are holds first, then confirmed or cancelled, half of them each."""
    refund: float = 0.0
    """Share of sales that are given back."""
    twins: float = 0.02
    """Share of orders that are sent through every service at once, under the same seq."""
    fault: str = "none"
    rate: float = 0.0
    """Orders arriving a second, in all, whether or not others are answered; 0 is a closed loop."""
    processes: int = 2
    """Operating-system processes; one alone has two services, so that services always conflict."""
    seed: int = 1
    retry_share: float = 0.1
    """The budget for retries, as HOLDFAST_RETRY_SHARE."""
    redis_url: str | None = None
    zookeeper_hosts: str | None = None

    @property
    def services_per_process(self) -> int:
        """Return how many ledgers with pools of their own a process has."""
        return 2 if self.processes == 1 else 1

    @property
    def services(self) -> int:
        """Return how many services there are in all."""
        return self.processes * self.services_per_process

    @property
    def sku_names(self) -> list[str]:
        """Return the SKUs, the most popular first."""
        return [f"sku-{number:05}" for number in range(self.skus)]

    @property
    def title(self) -> str:
        """Return what is special about it, in a few words."""
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
"""The presets of single experiments; `claims` is a series of them, in `claims.py`."""
