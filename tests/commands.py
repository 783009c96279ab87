"""Random commands about so few SKUs, sources and seqs that they often affect the same rows."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st

from db.rows import Line
from service.domain.commands import (
    AdjustStock,
    Caller,
    Cancel,
    Confirm,
    DeleteStock,
    Expire,
    Extend,
    ImportStock,
    RefundUnits,
    Reserve,
    SetStock,
)
from service.domain.identifiers import reservation_id

START = datetime(2026, 1, 1, tzinfo=UTC)
SKUS = ("A", "B", "C")
SOURCES = ("us", "them")
SEQS = ("1", "2", "3")

skus = st.sampled_from(SKUS)
seqs = st.sampled_from(SEQS)
quantities = st.integers(1, 5)
versions = st.none() | st.integers(1, 6)
holds = st.sampled_from([None, 1, 60])
lines = st.dictionaries(skus, quantities, min_size=1, max_size=3).map(
    lambda chosen: tuple(Line(sku, "main", quantity) for sku, quantity in sorted(chosen.items()))
)
callers = st.sampled_from([Caller("us"), Caller("us"), Caller("them"), Caller("us", True)])
chosen_ids = [UUID(int=1), reservation_id("us", "1"), reservation_id("them", "2")]
ids = st.sampled_from([*chosen_ids, *(reservation_id("us", seq) for seq in SEQS)])


def _reserve(source, seq, id_, lines_, hold_seconds, metadata) -> Reserve:
    effective_id = id_ or reservation_id(source, seq)
    return Reserve(source, seq, id_, lines_, hold_seconds, metadata, effective_id)


reserves = st.builds(
    _reserve,
    st.sampled_from(["us", "us", "them"]),
    seqs,
    st.sampled_from([None, None, None, *chosen_ids]),
    lines,
    holds,
    st.sampled_from([{}, {}, {"cart": "1"}]),
)
stock_commands = st.one_of(
    st.builds(SetStock, skus, st.just("main"), st.integers(0, 9), st.none(), st.none(), versions),
    st.builds(
        AdjustStock,
        st.sampled_from(SOURCES),
        seqs,
        skus,
        st.just("main"),
        st.sampled_from([-4, -1, 3, 10**12]),
        st.just("count"),
        st.none() | versions,
    ),
    st.builds(DeleteStock, skus, st.just("main"), st.none() | versions),
    st.builds(
        ImportStock,
        st.just("us"),
        st.sampled_from(["first", "second"]),
        st.sampled_from(["d1", "d2"]),
        st.dictionaries(skus, st.integers(0, 5), min_size=1).map(
            lambda rows: tuple((sku, "main", units, None) for sku, units in sorted(rows.items()))
        ),
        st.integers(0, 3),
        st.just(100),
    ),
)
moves = st.one_of(
    st.builds(Confirm, callers, ids, st.none() | lines),
    st.builds(Cancel, callers, ids),
    st.builds(Extend, callers, ids, st.sampled_from([1, 60])),
    st.builds(Expire, ids),
    st.builds(RefundUnits, callers, ids, seqs, st.none() | lines, st.none()),
)
commands = st.one_of(reserves, moves, stock_commands)
batches = st.lists(commands, min_size=1, max_size=7)
waits = st.sampled_from([timedelta(0), timedelta(seconds=2), timedelta(seconds=100)])
histories = st.lists(st.tuples(waits, commands), max_size=12)
shelves = st.fixed_dictionaries({"A": st.integers(0, 8)}, optional={"B": st.integers(0, 8)}).map(
    lambda units: [SetStock(sku, "main", n, None, None, None) for sku, n in units.items()]
)

limits = st.fixed_dictionaries(
    {},
    optional={
        source: st.fixed_dictionaries(
            {
                "open_holds_max": st.none() | st.integers(0, 3),
                "held_units_max": st.none() | st.integers(0, 12),
                "hold_seconds_max": st.sampled_from([None, None, 1, 60]),
            }
        )
        for source in SOURCES
    },
)
"""The limits of some sources."""
