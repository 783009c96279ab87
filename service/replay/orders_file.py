"""Reads a file of orders; an error names the line of the file."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from service.replay.orders import Match, OrderLine

COLUMNS = ("invoice", "line", "sku", "quantity", "ordered_at", "customer")
MATCH_COLUMNS = ("cancel_invoice", "cancel_line", "purchase_invoice", "purchase_line", "returned")


class OrdersError(Exception):
    """The file can't be used; the message names the line."""


def read_orders(path: Path) -> list[OrderLine]:
    """Return the lines of a file of orders. Raises `OrdersError` that names the line."""
    lines: list[OrderLine] = []
    seen: dict[tuple[str, int], int] = {}
    for number, row in read_rows(path, COLUMNS):
        try:
            line = _order_line(row)
        except ValueError as error:
            raise OrdersError(f"{path.name} line {number}: {error}") from None
        first = seen.setdefault((line.invoice, line.line), number)
        if first != number:
            raise OrdersError(
                f"{path.name} line {number}: invoice {line.invoice} line {line.line} is on line"
                f" {first} already; each may occur only once"
            )
        lines.append(line)
    if not lines:
        raise OrdersError(f"{path.name} has no orders below its header")
    return lines


def _order_line(row: dict[str, str]) -> OrderLine:
    """Convert a row to an order line. Raises `ValueError` that names the wrong field."""
    for name in ("invoice", "sku"):
        if not row[name]:
            raise ValueError(f"{name} is empty")
    line = OrderLine(
        row["invoice"],
        _whole_number(row, "line"),
        row["sku"],
        _whole_number(row, "quantity"),
        _moment(row["ordered_at"]),
        row["customer"],
    )
    if line.quantity == 0:
        raise ValueError("quantity is 0")
    if line.is_cancellation and line.quantity > 0:
        raise ValueError("quantity is above 0, but a cancellation needs one below 0")
    return line


def _whole_number(row: dict[str, str], name: str) -> int:
    try:
        return int(row[name])
    except ValueError:
        raise ValueError(f"{name} {row[name]!r} is not a whole number") from None


def _moment(text: str) -> datetime:
    """Return the moment; one without an offset is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"ordered_at {text!r} is not a time like 2010-12-01T09:09:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def find_disagreement(path: Path, matches: Iterable[Match]) -> str | None:
    """Return the first difference between these matches and a file's, or None if they agree."""
    ours = {
        (match.cancellation.invoice, str(match.cancellation.line)): (
            match.purchase.invoice,
            str(match.purchase.line),
            str(-match.cancellation.quantity),
        )
        for match in matches
    }
    theirs = {
        (row["cancel_invoice"], row["cancel_line"]): (
            row["purchase_invoice"],
            row["purchase_line"],
            row["returned"],
        )
        for _, row in read_rows(path, MATCH_COLUMNS)
    }
    for line in sorted(ours.keys() | theirs.keys()):
        if ours.get(line) != theirs.get(line):
            return (
                f"{line[0]} line {line[1]}: {path.name} says {_purchase(theirs.get(line))},"
                f" holdfast found {_purchase(ours.get(line))}"
            )
    return None


def _purchase(match: tuple[str, str, str] | None) -> str:
    return "no match" if match is None else f"{match[2]} of invoice {match[0]} line {match[1]}"


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row of a CSV file with the number of the line on which it begins.

    Raises `OrdersError` when a column is missing, a row has more or fewer fields than the header,
    or the file can't be read.
    """
    number = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise OrdersError(f"{path.name} line 1: there is no column {', '.join(missing)}")
            number = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise OrdersError(
                        f"{path.name} line {number}: it has {len(row)} fields, but the header"
                        f" has {len(header)}"
                    )
                if row:
                    yield number, dict(zip(header, row, strict=True))
                number = reader.line_num + 1
    except UnicodeDecodeError:
        raise OrdersError(f"{path.name} is not UTF-8, at or after line {number}") from None
    except csv.Error as error:
        raise OrdersError(f"{path.name} line {number}: {error}") from None
    except OSError as error:
        raise OrdersError(f"{path} can't be read: {error.strerror}") from None
