"""Apply: a plan's net writes as one statement, each part guarded by what the plan relied on.

The parts run in the order the guards need: first whatever has a unique key is inserted, then
reservations change state at the version that was seen, and only if all of that went in is stock
touched, row by row in the order of (sku, location); the ledger's lines come last and take their
version from the stock row they describe. A part that wrote fewer rows than planned is a conflict,
and the caller rolls everything back.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from db.ledger.arrays import arrays, json_text, unnest
from db.ledger.load import CLOCK
from db.rows import Writes
from db.session.configuration import IDENTITY
from db.session.database import Conflict, Transaction
from db.session.engine import Statement


@dataclass(frozen=True)
class Part:
    """One part of the statement: a table's rows as typed columns, and what is done with them."""

    name: str
    fields: str
    sql: str
    gates: bool = False
    """What comes after this part is written only if it wrote all of its rows."""

    @cached_property
    def parameter_names(self) -> list[str]:
        """The names of the parameters, one for each column."""
        return [f"{self.name}_{field.split()[0]}" for field in self.fields.split(", ")]

    @property
    def source(self) -> str:
        """The part's rows as a FROM item with named columns."""
        fields = self.fields.split(", ")
        arrays = unnest(*(f"{self.name}_{field}" for field in fields))
        return f"{arrays} AS new({', '.join(field.split()[0] for field in fields)})"

    @property
    def is_whole(self) -> str:
        """The condition that the part wrote all of its rows."""
        return f"(SELECT count(*) FROM {self.name}) = CAST(:{self.name}_rows AS int)"

    def parameters(self, rows: list[tuple[Any, ...]]) -> dict[str, Any]:
        """Return the rows, column by column, and their number."""
        names = self.parameter_names
        values = arrays(rows, len(names))
        return {**dict(zip(names, values, strict=True)), f"{self.name}_rows": len(rows)}


PARTS = {
    part.name: part
    for part in (
        Part(
            "reservation_created",
            "id uuid, source text, seq text, state text, version int, hold_seconds int,"
            " expires_at timestamptz, metadata json, shortages json, created_at timestamptz,"
            " updated_at timestamptz",
            """
            INSERT INTO reservation (id, source, seq, state, version, hold_seconds, expires_at,
                                     metadata, shortages, created_at, updated_at)
            SELECT * FROM {rows}
            ON CONFLICT DO NOTHING
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "refund_created",
            "reservation_id uuid, id uuid, source text, seq text, entire boolean, reason text,"
            " created_at timestamptz",
            """
            INSERT INTO refund (reservation_id, id, source, seq, entire, reason, created_at)
            SELECT * FROM {rows}
            ON CONFLICT DO NOTHING
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "adjustment_created",
            "sku text, location text, version bigint, id uuid, source text, seq text,"
            " delta bigint, reason text, created_at timestamptz",
            """
            INSERT INTO adjustment (sku, location, version, id, source, seq, delta, reason,
                                    created_at)
            SELECT * FROM {rows}
            ON CONFLICT DO NOTHING
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "import_job_created",
            "source text, job text, digest text, rows_in_all int, created int, skipped int,"
            " created_at timestamptz",
            """
            INSERT INTO import_job (source, job, digest, rows_in_all, created, skipped, created_at)
            SELECT * FROM {rows}
            ON CONFLICT DO NOTHING
            RETURNING 1
            """,
            gates=True,
        ),
        Part(
            "import_job_changed",
            "source text, job text, seen int, created int, skipped int",
            """
            UPDATE import_job SET created = new.created, skipped = new.skipped
            FROM {rows}
            WHERE import_job.source = new.source AND import_job.job = new.job
                AND import_job.created + import_job.skipped = new.seen
            RETURNING 1
            """,
            gates=True,
        ),
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
        Part(
            "refund_line_created",
            "reservation_id uuid, refund_id uuid, sku text, location text, quantity bigint",
            """
            INSERT INTO refund_line (reservation_id, refund_id, sku, location, quantity)
            SELECT * FROM {rows}
            WHERE {gate}
            RETURNING 1
            """,
        ),
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
    )
}

VERSIONS = "SELECT array_agg(version ORDER BY index) FROM stock_changed"
"""The versions that the changed rows now have, in the order of the changes."""

_STATEMENTS: dict[tuple[str, ...], Statement] = {}


async def apply(transaction: Transaction, writes: Writes) -> None:
    """Write everything or raise `Conflict` naming the part whose guard did not hold.

    The caller rolls back on any exception. A plan that relied on a deadline is refused when the
    database's clock has reached it by the time every lock is held and every row is written.
    """
    rows = {name: part for name, part in _rows(writes).items() if part}
    (written,) = await _statement(tuple(rows)).fetch(transaction.connection, _parameters(rows))
    for name, part in rows.items():
        if written[name] != len(part):
            raise Conflict(name)
    if writes.apply_before is not None and written["clock"] >= writes.apply_before:
        raise Conflict("deadline")
    transaction.note(written)


def _statement(names: tuple[str, ...]) -> Statement:
    """The statement that writes just these parts; a handful of forms, each prepared once."""
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
                gates.append(part.is_whole)
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
    """Each part's rows, in the order of `PARTS`."""
    created = writes.reservations_created
    refunds = writes.refunds_created
    return {
        "reservation_created": [
            (*row[:7], json_text(row.metadata), json_text(row.shortages), *row[9:11])
            for row in created
        ],
        "refund_created": [
            (
                row.reservation_id,
                row.id,
                row.source,
                row.seq,
                row.entire,
                row.reason,
                row.created_at,
            )
            for row in refunds
        ],
        "adjustment_created": [
            (
                row.sku,
                row.location,
                row.version,
                row.id,
                row.source,
                row.seq,
                row.delta,
                row.reason,
                row.created_at,
            )
            for row in writes.adjustments_created
        ],
        "import_job_created": list(writes.import_jobs_created),
        "import_job_changed": list(writes.import_jobs_changed),
        "reservation_changed": list(writes.reservations_changed),
        "stock_created": [
            (*row[:7], row.created_at, row.updated_at) for row in writes.stock_created
        ],
        "stock_changed": [(place, *row) for place, row in enumerate(writes.stock_changed, start=1)],
        "stock_pinned": list(writes.stock_pinned),
        "line_created": [(row.id, *line) for row in created for line in row.lines],
        "line_changed": [
            (id_, line.sku, line.location, line.confirmed, line.refunded)
            for id_, line in writes.lines_changed
        ],
        "refund_line_created": [
            (row.reservation_id, row.id, line.sku, line.location, line.quantity)
            for row in refunds
            for line in row.lines
        ],
        "movement_created": _movements(writes),
    }


def _movements(writes: Writes) -> list[tuple[Any, ...]]:
    """Movements with the version each gave its row.

    A row that is changed relative to what is there gets its version only then: such a movement has
    the row's place among the changed ones, and how many versions before the last it stands.
    """
    steps = {(row.sku, row.location): row.steps for row in writes.stock_changed}
    places = {key: place for place, key in enumerate(steps, start=1)}
    return [
        (
            row.sku,
            row.location,
            places.get(row[:2]),
            row.ordinal - steps.get(row[:2], 0),
            *row[3:],
        )
        for row in writes.movements
    ]
