"""The kinds of stored answers: how each is looked up, loaded and written, in one entry each.

A stored answer is found by its identity, so that the same request gets the same answer again. To
add a kind: a row in `db.rows` with the property `identity`, a table in `db.models`, and an entry
here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from db.ledger.arrays import unnest
from db.ledger.part import Part, column_names, insertion, line_insertion
from db.rows import Adjustment, ImportJob, Line, Refund, StoredAnswer, Writes

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class AnswerLines:
    """The lines of a kind of answer, each about one stock row."""

    table: str
    columns: str
    """Typed columns: those that name the answer, and `sku`, `location` and the units."""
    owner: str
    """The column that has the answer's id."""
    join: str
    """The condition that a line belongs to an answer."""
    rows: Callable[[Any], Iterator[tuple[Any, ...]]]
    """The rows of an answer's lines, as `columns` names them."""


@dataclass(frozen=True)
class AnswerChange:
    """The update that replaces a stored answer by its next state."""

    part: Part
    row: Callable[[Any, Any], tuple[Any, ...]]
    """Returns the part's row for the answer that was seen and the answer that replaces it."""


@dataclass(frozen=True)
class AnswerKind:
    """A kind of stored answer: its row and its table, and its lines and changes if it has any."""

    row: type[Any]
    table: str
    columns: str
    """Typed columns in the order of the row's fields."""
    identity: tuple[str, str] = ("source", "seq")
    lines: AnswerLines | None = None
    change: AnswerChange | None = None


KINDS = (
    AnswerKind(
        Refund,
        "refund",
        "id uuid, reservation_id uuid, source text, seq text, entire boolean, reason text,"
        " created_at timestamptz",
        lines=AnswerLines(
            "refund_line",
            "reservation_id uuid, refund_id uuid, sku text, location text, quantity bigint",
            owner="refund_id",
            join="refund_line.reservation_id = refund.reservation_id"
            " AND refund_line.refund_id = refund.id",
            rows=lambda refund: (
                (refund.reservation_id, refund.id, line.sku, line.location, line.quantity)
                for line in refund.lines
            ),
        ),
    ),
    AnswerKind(
        Adjustment,
        "adjustment",
        "id uuid, source text, seq text, sku text, location text, delta bigint, reason text,"
        " version bigint, created_at timestamptz",
    ),
    AnswerKind(
        ImportJob,
        "import_job",
        "source text, job text, digest text, rows_in_all int, created int, skipped int,"
        " created_at timestamptz",
        identity=("source", "job"),
        change=AnswerChange(
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
            row=lambda seen, job: (*job.identity, seen.rows_done, job.created, job.skipped),
        ),
    ),
)


def _selects(kind: AnswerKind) -> dict[str, str]:
    """The SELECTs that load answers of a kind and their lines, by the names of their results."""
    first, second = kind.identity
    found = (
        f"{unnest(f'{kind.table}_firsts text', f'{kind.table}_seconds text')}"
        f" AS wanted({first}, {second}) JOIN {kind.table} USING ({first}, {second})"
    )
    columns = ", ".join(f"{kind.table}.{name}" for name in column_names(kind.columns))
    selects = {kind.table: f"SELECT ROW({columns}) FROM {found}"}
    if kind.lines is not None:
        line, owner = kind.lines.table, f"{kind.lines.table}.{kind.lines.owner}"
        units = column_names(kind.lines.columns)[-1]
        selects[f"{line}s"] = (
            f"SELECT ROW({owner}, sku, location, {units}) FROM {found}"
            f" JOIN {line} ON {kind.lines.join} ORDER BY {owner}, sku, location"
        )
    return selects


SELECTS = {kind.row: _selects(kind) for kind in KINDS}
"""For each kind the SELECTs that load it. Their parameters are the two halves of the identities."""

PARTS = [
    part
    for kind in KINDS
    for part in (insertion(kind.table, kind.columns), kind.change and kind.change.part)
    if part
]
"""The parts that write answers, before stock is changed."""

LINE_PARTS = [line_insertion(kind.lines.table, kind.lines.columns) for kind in KINDS if kind.lines]
"""The parts that write the lines of answers."""


def answer_from(kind: AnswerKind, record: Any, lines: tuple[Line, ...]) -> StoredAnswer:
    """Return the answer of a kind that a loaded record and its lines make up."""
    answer: StoredAnswer = kind.row(*record, lines) if kind.lines else kind.row(*record)
    return answer


def answer_rows(writes: Writes) -> dict[str, Rows]:
    """Return the rows of `PARTS` for a plan, without the parts that have no rows."""
    rows: dict[str, Rows] = {}
    if not (writes.answers_created or writes.answers_changed):
        return rows
    for kind in KINDS:
        width = kind.columns.count(",") + 1
        if created := writes.answers_created.get(kind.row):
            rows[f"{kind.table}_created"] = [answer[:width] for answer in created]
        if kind.change and (changed := writes.answers_changed.get(kind.row)):
            rows[kind.change.part.name] = [kind.change.row(*pair) for pair in changed]
    return rows


def answer_line_rows(writes: Writes) -> dict[str, Rows]:
    """Return the rows of `LINE_PARTS` for a plan, without the parts that have no rows."""
    if not writes.answers_created:
        return {}
    return {
        f"{kind.lines.table}_created": [
            row for answer in writes.answers_created[kind.row] for row in kind.lines.rows(answer)
        ]
        for kind in KINDS
        if kind.lines and kind.row in writes.answers_created
    }
