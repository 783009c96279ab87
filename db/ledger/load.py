"""Load: the rows that a batch of commands names, as one snapshot, in one round trip."""

import itertools
from collections.abc import Iterable
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db.ledger.answers import KINDS, SELECTS, answer_from
from db.ledger.arrays import array, arrays, unnest
from db.rows import Line, Reservation, Snapshot, SourceLimit, Stock, StockKey, Wanted
from db.session.engine import Statement

CLOCK = "clock_timestamp()"
"""The clock of every deadline. `now()` stands still from BEGIN on: a confirm that waits for a lock
until after its deadline would succeed."""

FOUND = f"""
    SELECT id, source FROM {unnest("ids uuid")} AS wanted(id) JOIN reservation USING (id)
    UNION
    SELECT reservation.id, source
    FROM {unnest("sources text", "seqs text")} AS wanted(source, seq)
    JOIN reservation USING (source, seq)
"""

OWN = f"""
    UNION
    SELECT id, source FROM {unnest("own_ids uuid", "own_sources text")} AS wanted(id, source)
    JOIN reservation USING (id, source)
"""
"""The lines of another source's reservation are not read: it costs as much as a missing one."""

OVERDUE = f"""
    UNION
    SELECT reservation.id, reservation.source
    FROM reservation
    JOIN reservation_line ON reservation_line.reservation_id = reservation.id
    WHERE reservation.state = 'held' AND reservation.expires_at <= {CLOCK}
        AND (sku, location) IN (
            SELECT * FROM {unnest("overdue_skus text", "overdue_locations text")}
        )
"""

KEYS = f"""
    SELECT * FROM {unnest("skus text", "locations text")} AS wanted(sku, location)
    UNION
    SELECT sku, location FROM line
"""

ROWS = {
    "stock": """
        SELECT ROW(sku, location, name, available, held, low_stock_at, version, updated_at,
                   deleted_at IS NOT NULL)
        FROM key JOIN stock USING (sku, location)
    """,
    "reservations": """
        SELECT ROW(id, reservation.source, seq, state, version, hold_seconds, expires_at, metadata,
                   shortages, created_at, updated_at)
        FROM found JOIN reservation USING (id)
    """,
    "lines": """
        SELECT ROW(reservation_id, sku, location, quantity, confirmed, refunded)
        FROM line ORDER BY reservation_id, sku, location
    """,
}


HOLDERS = f"""
    SELECT * FROM {unnest("holders text")} AS wanted(source) UNION SELECT source FROM found
"""
"""The sources whose holds may begin or end."""

LIMITS = f"""
    SELECT ROW(source, open_holds_max, held_units_max, hold_seconds_max, tracking, open_holds,
               held_units)
    FROM ({HOLDERS}) AS holder JOIN source_limit USING (source)
"""
"""The limits of these sources. PostgreSQL locks the table for reading before it takes the snapshot,
and until the transaction ends. `db.queries.source_limits` relies on that."""


async def load(connection: AsyncConnection, wanted: Wanted) -> Snapshot:
    """Return the wanted rows, the stock rows of the wanted reservations, and the clock.

    With `wanted.overdue` it also has every overdue hold on those stock rows.
    """
    (row,) = await _statement(wanted).fetch(connection, _parameters(wanted))
    lines = _grouped(row["lines"])
    snapshot = Snapshot(
        now=row["now"],
        stock={(record[0], record[1]): Stock(*record) for record in row["stock"]},
        reservations={
            record[0]: Reservation._make((*record, lines.get(record[0], ())))
            for record in row["reservations"]
        },
        overdue=frozenset(wanted.overdue),
        limits={record[0]: SourceLimit(*record) for record in row["limits"]}
        if wanted.limits
        else None,
    )
    for kind in KINDS:
        if kind.row in wanted.answers:
            lines = _grouped(row[f"{kind.lines.table}s"]) if kind.lines else {}
            answers = [
                answer_from(kind, record, lines.get(record[0], ())) for record in row[kind.table]
            ]
            snapshot.answers[kind.row] = {answer.identity: answer for answer in answers}
    return snapshot


def _statement(wanted: Wanted) -> Statement:
    """The statement that loads the wanted rows; PostgreSQL plans each of its few forms once."""
    kinds = tuple([kind.row for kind in KINDS if kind.row in wanted.answers])
    form = (bool(wanted.overdue), bool(wanted.own_reservations), wanted.limits, *kinds)
    if form not in _STATEMENTS:
        rows = dict(ROWS)
        for kind in kinds:
            rows |= SELECTS[kind]
        if wanted.limits:
            rows["limits"] = LIMITS
        _STATEMENTS[form] = Statement(
            f"WITH found AS ({FOUND}{OWN if wanted.own_reservations else ''}"
            f"{OVERDUE if wanted.overdue else ''}),"
            " line AS (SELECT reservation_line.* FROM found"
            " JOIN reservation_line ON reservation_line.reservation_id = found.id),"
            f" key AS ({KEYS})"
            f" SELECT {CLOCK} AS now,"
            + ", ".join(f"ARRAY({select}) AS {name}" for name, select in rows.items())
        )
    return _STATEMENTS[form]


_STATEMENTS: dict[tuple[Any, ...], Statement] = {}


def _parameters(wanted: Wanted) -> dict[str, Any]:
    parameters: dict[str, Any] = {"ids": array(wanted.reservations)}
    pairs: list[tuple[str, str, Iterable[tuple[Any, Any]]]] = [
        ("sources", "seqs", wanted.identities),
        ("skus", "locations", wanted.stock),
    ]
    if wanted.limits:
        parameters["holders"] = array(sorted(wanted.holders))
    if wanted.own_reservations:
        pairs.append(("own_ids", "own_sources", wanted.own_reservations))
    if wanted.overdue:
        pairs.append(("overdue_skus", "overdue_locations", wanted.overdue))
    for kind in KINDS:
        if kind.row in wanted.answers:
            identities = wanted.answers[kind.row]
            pairs.append((f"{kind.table}_firsts", f"{kind.table}_seconds", identities))
    for first, second, keys in pairs:
        parameters[first], parameters[second] = arrays(sorted(keys), 2)
    return parameters


def _grouped(records: Iterable[Any]) -> dict[Any, tuple[Line, ...]]:
    """Lines by their owner's id, which is each record's first field."""
    return {
        owner: tuple(Line(*record[1:]) for record in group)
        for owner, group in itertools.groupby(records, key=lambda record: record[0])
    }


LOCK_RESERVATIONS = text(f"""
    SELECT reservation.id FROM ({FOUND}{OWN}) AS found JOIN reservation USING (id)
    ORDER BY reservation.id FOR UPDATE OF reservation
""")

WANTED_KEYS = f"""
    WITH found AS ({FOUND}{OWN}),
    line AS (SELECT sku, location FROM found
             JOIN reservation_line ON reservation_line.reservation_id = found.id)
    {KEYS}
"""
"""The keys of the wanted stock rows and of those that the wanted reservations hold."""

LOCK_LIMITS = text(f"""
    WITH found AS ({FOUND}{OWN})
    SELECT 1 FROM ({HOLDERS}) AS holder JOIN source_limit USING (source)
    ORDER BY source_limit.source FOR UPDATE OF source_limit
""")

LOCK_STOCK = text(f"""
    SELECT 1 FROM ({WANTED_KEYS}) AS key JOIN stock USING (sku, location)
    ORDER BY stock.sku, stock.location FOR UPDATE OF stock
""")


async def lock(connection: AsyncConnection, wanted: Wanted) -> None:
    """Take the wanted rows FOR UPDATE: reservations by id, limits by source, stock by its key."""
    parameters = key_parameters(wanted)
    await connection.execute(LOCK_RESERVATIONS, parameters)
    if wanted.limits:
        await connection.execute(LOCK_LIMITS, parameters)
    await connection.execute(LOCK_STOCK, parameters)


def key_parameters(wanted: Wanted) -> dict[str, Any]:
    """Return the parameters of `WANTED_KEYS` and of other statements that use the same keys."""
    own_ids, own_sources = arrays(sorted(wanted.own_reservations), 2)
    return {
        **_parameters(
            Wanted(
                reservations=wanted.reservations,
                identities=wanted.identities,
                stock=wanted.stock,
            )
        ),
        "own_ids": own_ids,
        "own_sources": own_sources,
        "holders": array(sorted(wanted.holders)),
    }


FREE_RESERVATIONS = text(f"""
    SELECT reservation.id FROM {unnest("ids uuid")} AS wanted(id)
    JOIN reservation USING (id) ORDER BY id FOR UPDATE OF reservation SKIP LOCKED
""")

FREE_STOCK = text(f"""
    SELECT stock.sku, stock.location
    FROM {unnest("skus text", "locations text")} AS wanted(sku, location)
    JOIN stock USING (sku, location)
    ORDER BY sku, location FOR UPDATE OF stock SKIP LOCKED
""")


FREE_LIMITS = text(f"""
    SELECT source_limit.source FROM {unnest("holders text")} AS wanted(source)
    JOIN source_limit USING (source) ORDER BY source FOR UPDATE OF source_limit SKIP LOCKED
""")


async def locked_elsewhere(connection: AsyncConnection, snapshot: Snapshot) -> set[Any]:
    """Return the keys of the snapshot whose rows another session holds locked.

    They are ids of reservations, keys of stock rows and sources.
    """
    skus, locations = arrays(sorted(snapshot.stock), 2)
    reservations = await connection.execute(
        FREE_RESERVATIONS, {"ids": array(sorted(snapshot.reservations))}
    )
    stock = await connection.execute(FREE_STOCK, {"skus": skus, "locations": locations})
    free: set[Any] = {row.id for row in reservations}
    free_keys: set[StockKey] = {(row.sku, row.location) for row in stock}
    locked = {*snapshot.reservations, *snapshot.stock} - free - free_keys
    if snapshot.limits:
        limits = await connection.execute(FREE_LIMITS, {"holders": array(sorted(snapshot.limits))})
        locked |= snapshot.limits.keys() - {row.source for row in limits}
    return locked
