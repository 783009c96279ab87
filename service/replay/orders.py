"""Turns the lines of a file of orders into requests and the stock that they need.

`service.replay.passes` sends the requests.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import floor

LINES_MAX = 1_000  # of a reservation, as the contract says; the longest real invoice has 1,114


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One line of the file; `quantity` is below zero for returned and written-off units."""

    invoice: str
    line: int
    sku: str
    quantity: int
    ordered_at: datetime
    customer: str

    @property
    def is_cancellation(self) -> bool:
        """True for a line of a credit note, whose invoice begins with C."""
        return self.invoice.startswith("C")


@dataclass(frozen=True, slots=True)
class Match:
    """A cancellation line and the purchase line whose units it returns."""

    cancellation: OrderLine
    purchase: OrderLine


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A cancellation line that matches no purchase in the file, and the reason."""

    cancellation: OrderLine
    reason: str


@dataclass(frozen=True, slots=True)
class WriteOff:
    """A stock adjustment to send."""

    seq: str
    sku: str
    delta: int
    reason: str


@dataclass(frozen=True, slots=True)
class Return:
    """A refund to send: the units of one order that one credit note returns."""

    seq: str
    reason: str
    units: Counter[str]


@dataclass(frozen=True, slots=True)
class Order:
    """A reservation to send, followed by its refunds in this order."""

    seq: str
    lines: Sequence[OrderLine]
    returns: list[Return] = field(default_factory=list)

    @property
    def units(self) -> Counter[str]:
        """Units per SKU, summed over the lines."""
        return units(self.lines)


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """All requests and the stock of a file of orders, under one prefix."""

    prefix: str
    """The beginning of every seq, and the name of the location and of the import job."""
    lines: int
    seed: dict[str, int]
    write_offs: list[WriteOff]
    orders: list[Order]
    matches: list[Match]
    unmatched: list[Unmatched]

    @property
    def units_needed(self) -> int:
        """Units that must be in stock so that no request is refused."""
        lost = -sum(write_off.delta for write_off in self.write_offs)
        return lost + sum(order.units.total() for order in self.orders)

    @property
    def requests(self) -> int:
        """Number of requests that one pass sends if none is refused."""
        return len(self.write_offs) + sum(1 + len(order.returns) for order in self.orders)


def plan_replay(lines: Sequence[OrderLine], prefix: str, stock_share: float = 1.0) -> ReplayPlan:
    """Turn purchases into orders, matched cancellations into returns, the rest into write-offs.

    The seeded stock covers all write-offs and `stock_share` of the bought units.
    """
    matches, unmatched = match_cancellations(lines)
    purchases = [line for line in lines if line.quantity > 0]
    written_off = [line for line in lines if line.quantity < 0 and not line.is_cancellation]
    orders, order_of = _make_orders(purchases, prefix)
    _add_returns(matches, order_of, prefix)
    bought, lost = units(purchases), units(written_off)
    return ReplayPlan(
        prefix=prefix,
        lines=len(lines),
        seed={
            sku: lost[sku] + floor(bought[sku] * stock_share) for sku in sorted({*bought, *lost})
        },
        write_offs=[
            WriteOff(
                f"{prefix}-{line.invoice}-{line.line}",
                line.sku,
                line.quantity,
                f"write-off, invoice {line.invoice} line {line.line}",
            )
            for line in written_off
        ],
        orders=orders,
        matches=matches,
        unmatched=unmatched,
    )


def match_cancellations(lines: Iterable[OrderLine]) -> tuple[list[Match], list[Unmatched]]:
    """Match each cancellation line, in order, to the purchase line whose units it returns.

    That is the latest earlier line of the same customer and SKU with enough units not yet
    returned. Earlier means an earlier moment: within a minute the file has no order. A line without
    a customer has no match, and a cancellation is never divided between two purchases.
    """
    bought: dict[tuple[str, str], list[OrderLine]] = defaultdict(list)
    left: dict[OrderLine, int] = {}
    matches: list[Match] = []
    unmatched: list[Unmatched] = []
    for line in lines:
        if line.quantity > 0:
            bought[line.customer, line.sku].append(line)
            left[line] = line.quantity
        elif line.is_cancellation:
            found = _find_purchase(line, bought[line.customer, line.sku], left)
            if isinstance(found, str):
                unmatched.append(Unmatched(line, found))
            else:
                left[found] += line.quantity
                matches.append(Match(line, found))
    return matches, unmatched


def _find_purchase(
    line: OrderLine, candidates: Sequence[OrderLine], left: dict[OrderLine, int]
) -> OrderLine | str:
    """Return the purchase line, or the reason that there is none."""
    if not line.customer:
        return "no customer named"
    earlier = [bought for bought in candidates if bought.ordered_at < line.ordered_at]
    if not earlier:
        return "no earlier purchase of that SKU by that customer"
    enough = [bought for bought in earlier if left[bought] >= -line.quantity]
    if not enough:
        return "more units than one earlier line has left"
    return enough[-1]


def units(lines: Iterable[OrderLine]) -> Counter[str]:
    """Return the units per SKU, ignoring the sign of the lines."""
    total: Counter[str] = Counter()
    for line in lines:
        total[line.sku] += abs(line.quantity)
    return total


def _make_orders(
    purchases: Sequence[OrderLine], prefix: str
) -> tuple[list[Order], dict[OrderLine, Order]]:
    """Make one order for each invoice; split an invoice that is too long for a reservation."""
    orders: list[Order] = []
    order_of: dict[OrderLine, Order] = {}
    invoices: dict[str, list[OrderLine]] = defaultdict(list)
    for line in purchases:
        invoices[line.invoice].append(line)
    for invoice, lines in invoices.items():
        for start in range(0, len(lines), LINES_MAX):
            part = f"+{start // LINES_MAX + 1}" if start else ""
            order = Order(f"{prefix}-{invoice}{part}", lines[start : start + LINES_MAX])
            orders.append(order)
            order_of.update(dict.fromkeys(order.lines, order))
    return orders, order_of


def _add_returns(matches: Sequence[Match], order_of: dict[OrderLine, Order], prefix: str) -> None:
    """Add to each order its refunds: one for each credit note that returns units of it."""
    groups: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.cancellation.invoice, order_of[match.purchase].seq].append(match)
    for (credit_note, seq), group in groups.items():
        order_of[group[0].purchase].returns.append(
            Return(
                f"{prefix}-{credit_note}{seq.removeprefix(prefix)}",
                f"cancellation, credit note {credit_note}",
                units(match.cancellation for match in group),
            )
        )
