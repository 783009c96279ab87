"""Apply: a plan's net writes as one statement, each part guarded by the rows the plan relied on.

The parts run in the order that the guards need. First the rows with unique keys are inserted, then
reservations change state at the version that was seen. Then the use of limits is changed, in the
order of the sources. Only if all of that was written is stock changed, row by row
in the order of (sku, location). The ledger's lines come last and take their
versions from the stock rows they describe. A part that wrote fewer rows than planned is a conflict,
and the caller rolls everything back.
"""

from typing import Any

from db.ledger import answers
from db.ledger.arrays import json_text
from db.ledger.load import CLOCK
from db.ledger.part import Part, by_name, insertion
from db.rows import StockKey, Writes
from db.session.configuration import IDENTITY
from db.session.database import Conflict, Transaction
from db.session.engine import Statement

PARTS = by_name(
    [
        insertion(
            "reservation",
            "id uuid, source text, seq text, state text, version int, hold_seconds int,"
            " expires_at timestamptz, metadata json, shortages json, created_at timestamptz,"
            " updated_at timestamptz",
        ),
        *answers.PARTS,
        Part(
            "reservation_changed",
            "id uuid, seen_version int, version int, state text, expires_at timestamptz,"
            " updated_at timestamptz",
            """
            UPDATE reservation
            SET state = new.state, version = new.version, expires_at = new.expires_at,
                updated_at = new.updated_at
            FROM {rows}
            WHERE reservation.id = new.id AND reservation.version = new.seen_version
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "source_limit_changed",
            "source text, holds_delta bigint, units_delta bigint, holds_highest bigint,"
            " units_highest bigint, holds_refused bigint, units_refused bigint",
            """
            UPDATE source_limit
            SET open_holds = source_limit.open_holds + new.holds_delta,
                held_units = source_limit.held_units + new.units_delta
            FROM {rows}
            WHERE {gate} AND source_limit.source = new.source
                AND (source_limit.open_holds + new.holds_highest <= source_limit.open_holds_max)
                    IS NOT FALSE
                AND (source_limit.held_units + new.units_highest <= source_limit.held_units_max)
                    IS NOT FALSE
                AND (source_limit.open_holds + new.holds_refused <= source_limit.open_holds_max)
                    IS NOT TRUE
                AND (source_limit.held_units + new.units_refused <= source_limit.held_units_max)
                    IS NOT TRUE
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "stock_created",
            "sku text, location text, name text, available bigint, held bigint,"
            " low_stock_at bigint, version bigint, created_at timestamptz,"
            " updated_at timestamptz",
            """
            INSERT INTO stock (sku, location, name, available, held, low_stock_at, version,
                               created_at, updated_at)
            SELECT sku, location, name, available, held, low_stock_at, version,
                   created_at, updated_at
            FROM {rows}
            WHERE {gate}
            ON CONFLICT DO NOTHING
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "stock_changed",
            "index int, sku text, location text, available_delta bigint, held_delta bigint,"
            " lowest bigint, steps int, seen_version bigint, name text, low_stock_at bigint,"
            " deleted boolean, updated_at timestamptz, fence bigint",
            """
            UPDATE stock
            SET available = stock.available + new.available_delta,
                held = stock.held + new.held_delta,
                version = stock.version + new.steps,
                updated_at = new.updated_at,
                name = CASE WHEN new.seen_version IS NULL THEN stock.name ELSE new.name END,
                low_stock_at = CASE WHEN new.seen_version IS NULL THEN stock.low_stock_at
                                    ELSE new.low_stock_at END,
                deleted_at = CASE WHEN new.deleted THEN new.updated_at END,
                fence = greatest(stock.fence, new.fence)
            FROM {rows}
            WHERE {gate}
                AND stock.sku = new.sku AND stock.location = new.location
                AND stock.available + new.lowest >= 0
                AND (new.seen_version IS NOT NULL OR stock.deleted_at IS NULL)
                AND (new.seen_version IS NULL OR stock.version = new.seen_version)
                AND (new.fence IS NULL OR stock.fence <= new.fence)
            RETURNING new.index, stock.version
            """,
            gates=True,
        ),
        Part(
            "stock_pinned",
            "sku text, location text, version bigint",
            """
            SELECT 1 FROM {rows} JOIN stock USING (sku, location)
            WHERE {gate} AND stock.version = new.version
            ORDER BY stock.sku, stock.location
            FOR NO KEY UPDATE OF stock
            """,
        ),
        Part(
            "line_created",
            "reservation_id uuid, sku text, location text, quantity bigint, confirmed bigint,"
            " refunded bigint",
            """
            INSERT INTO reservation_line (reservation_id, sku, location, quantity, confirmed,
                                          refunded)
            SELECT * FROM {rows}
            WHERE {gate}
            RETURNING 1
            """,
        ),
        Part(
            "line_changed",
            "reservation_id uuid, sku text, location text, confirmed bigint, refunded bigint",
            """
            UPDATE reservation_line AS line
            SET confirmed = new.confirmed, refunded = new.refunded
            FROM {rows}
            WHERE {gate} AND line.reservation_id = new.reservation_id
                AND line.sku = new.sku AND line.location = new.location
            RETURNING 1
            """,
        ),
        *answers.LINE_PARTS,
        Part(
            "movement_created",
            "sku text, location text, index int, version bigint, kind text,"
            " available_delta bigint, held_delta bigint, reservation_id uuid,"
            " reservation_version int, created_at timestamptz",
            """
            INSERT INTO movement (sku, location, version, kind, available_delta, held_delta,
                                  reservation_id, reservation_version, created_at)
            SELECT sku, location, version + coalesce(({versions})[index], 0), kind,
                   available_delta, held_delta, reservation_id, reservation_version, created_at
            FROM {rows}
            WHERE {gate}
            RETURNING 1
            """,
        ),
    ]
)

VERSIONS = "SELECT array_agg(version ORDER BY index) FROM stock_changed"
"""The versions that the changed rows now have, in the order of the changes."""

_STATEMENTS: dict[tuple[str, ...], Statement] = {}


async def apply(transaction: Transaction, writes: Writes) -> None:
    """Write everything, or raise a `Conflict` that names the part whose guard did not hold.

    The caller rolls back on any exception. A plan that relied on a deadline is refused if the
    database's clock reaches it before all locks are held and all rows are written.
    """
    rows = _rows(writes)
    (written,) = await _statement(tuple(rows)).fetch(transaction.connection, _parameters(rows))
    for name, part in rows.items():
        if written[name] != len(part):
            raise Conflict(name)
    if writes.apply_before is not None and written["clock"] >= writes.apply_before:
        raise Conflict("deadline")
    transaction.note(written)


def _statement(names: tuple[str, ...]) -> Statement:
    """The statement that writes only these parts; there are few forms, each is prepared once."""
    if names not in _STATEMENTS:
        parts = []
        gates: list[str] = []
        for name in names:
            part = PARTS[name]
            rows_written = part.sql.format(
                rows=part.source,
                gate=" AND ".join(gates) or "TRUE",
                versions=VERSIONS if "stock_changed" in names else "NULL::bigint[]",
            )
            parts.append(f"{name} AS ({rows_written})")
            if part.gates:
                gates.append(part.is_complete)
        counts = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in names)
        _STATEMENTS[names] = Statement(
            f"WITH {', '.join(parts)}"
            f" SELECT written.*, {CLOCK} AS clock, {IDENTITY}"
            f" FROM (SELECT {counts} OFFSET 0) AS written"
        )
    return _STATEMENTS[names]


def _parameters(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name, part in rows.items():
        parameters |= PARTS[name].parameters(part)
    return parameters


def _rows(writes: Writes) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each part that has any, in the order of `PARTS`."""
    created = writes.reservations_created
    rows: dict[str, list[Any]] = {
        "reservation_created": [
            (*row[:7], json_text(row.metadata), json_text(row.shortages), *row[9:11])
            for row in created
        ],
        **answers.answer_rows(writes),
        "reservation_changed": writes.reservations_changed,
        "source_limit_changed": writes.limits_changed,
        "stock_created": [
            (*row[:7], row.created_at, row.updated_at) for row in writes.stock_created
        ],
        "stock_changed": [(index, *row) for index, row in enumerate(writes.stock_changed, start=1)],
        "stock_pinned": writes.stock_pinned,
        "line_created": [(row.id, *line) for row in created for line in row.lines],
        "line_changed": [
            (id_, line.sku, line.location, line.confirmed, line.refunded)
            for id_, line in writes.lines_changed
        ],
        **answers.answer_line_rows(writes),
        "movement_created": _movements(writes),
    }
    return {name: part for name, part in rows.items() if part}


def _movements(writes: Writes) -> list[tuple[Any, ...]]:
    """Movements with the version that each gave its stock row.

    A row that is changed relative to its current content gets its version only in the statement.
    So its movement has the index of the row among the changed rows, and the difference from the
    row's last version: 0, -1, ….
    """
    indexes: dict[StockKey, int] = {}
    steps: dict[StockKey, int] = {}
    for index, change in enumerate(writes.stock_changed, start=1):
        indexes[change[:2]], steps[change[:2]] = index, change.steps
    return [
        (row[0], row[1], indexes.get(row[:2]), row.ordinal - steps.get(row[:2], 0), *row[3:])
        for row in writes.movements
    ]
