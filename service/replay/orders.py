"""Real orders as requests: the file's lines, their cancellations matched, what stock they need.

Nothing here is sent. `service.replay.replay` sends it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import floor

LINES_MAX = 1_000  # of a reservation, as the contract says; the longest real invoice has 1,114


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One line of the file; `quantity` is below zero for what comes back or is written off."""

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
    """A cancellation line and the purchase line whose units it gives back."""

    cancellation: OrderLine
    purchase: OrderLine


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A cancellation line that gives back nothing that this file sold, and why."""

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
    """A refund to send: what one credit note gives back of one order."""

    seq: str
    reason: str
    units: Counter[str]


@dataclass(frozen=True, slots=True)
class Order:
    """A reservation to send, and then its refunds in this order."""

    seq: str
    lines: Sequence[OrderLine]
    returns: list[Return] = field(default_factory=list)

    @property
    def units(self) -> Counter[str]:
        """Units per SKU, however many lines ask for it."""
        return units(self.lines)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a file of orders comes to, under one prefix."""

    prefix: str
    """Begins every seq, and is the location and the import job of the stock."""
    lines: int
    seed: dict[str, int]
    write_offs: list[WriteOff]
    orders: list[Order]
    matches: list[Match]
    unmatched: list[Unmatched]

    @property
    def units_needed(self) -> int:
        """Units that must be in stock for nothing to be refused."""
        lost = -sum(write_off.delta for write_off in self.write_offs)
        return lost + sum(order.units.total() for order in self.orders)

    @property
    def requests(self) -> int:
        """How many requests one pass sends if none is refused."""
        return len(self.write_offs) + sum(1 + len(order.returns) for order in self.orders)


def make_plan(lines: Sequence[OrderLine], prefix: str, stock_share: float = 1.0) -> Plan:
    """Turn purchases into orders, matched cancellations into returns, the rest into write-offs.

    The stock to seed covers all write-offs and `stock_share` of the units that are bought.
    """
    matches, unmatched = match_cancellations(lines)
    purchases = [line for line in lines if line.quantity > 0]
    written_off = [line for line in lines if line.quantity < 0 and not line.is_cancellation]
    orders, order_of = _make_orders(purchases, prefix)
    _add_returns(matches, order_of, prefix)
    bought, lost = units(purchases), units(written_off)
    return Plan(
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
    """Match each cancellation line, in order, to the purchase line that it gives back.

    That is the latest earlier line of the same customer and SKU with enough units not yet
    returned. Earlier is an earlier moment: inside a minute the file has no order. A line without a
    customer matches nothing, and no cancellation is spread over two purchases.
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
    """Return the purchase line, or why there is none."""
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
    """Return the units per SKU, however the lines are signed."""
    total: Counter[str] = Counter()
    for line in lines:
        total[line.sku] += abs(line.quantity)
    return total


def _make_orders(
    purchases: Sequence[OrderLine], prefix: str
) -> tuple[list[Order], dict[OrderLine, Order]]:
    """One order for each invoice; one that is too long for a reservation goes in parts."""
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
    """Give each order its refunds: one for each credit note that reaches it."""
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
