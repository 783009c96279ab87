"""The planner equals the serial model, and its guards detect changes since the read of the rows."""

import os
from collections import Counter
from copy import deepcopy
from datetime import datetime
from types import MappingProxyType
from typing import Any

from hypothesis import HealthCheck, event, given, settings

from db.rows import SourceLimit
from db.vocabulary import Tracking
from service.domain.commands import DeleteStock, Done, ImportStock
from service.domain.planner import MICROSECOND
from tests.commands import START, batches, histories, limits, shelves
from tests.model import Model
from tests.tables import Tables, seen, told

EXAMPLES = int(os.environ.get("HOLDFAST_TEST_EXAMPLES", "400"))
MANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


def after(
    shelf: Any, history: Any, limits_of: Any = MappingProxyType({})
) -> tuple[Tables, Model, datetime]:
    """Execute a history; return its state as tables and as a model, and the time after it."""
    tables, model, now = Tables(), Model(), START
    model.limits = limits_of
    for source, limit in limits_of.items():
        is_tracked = (limit["open_holds_max"], limit["held_units_max"]) != (None, None)
        tracking = Tracking.ON if is_tracked else Tracking.OFF
        tables.limits[source] = SourceLimit(
            source, **limit, tracking=tracking, open_holds=0, held_units=0
        )
    for wait, command in [(MICROSECOND, command) for command in shelf] + history:
        now += wait + MICROSECOND
        assert told(tables.run(command, now)) == model.execute(command, now)
    return tables, model, now + MICROSECOND


def assert_same(tables: Tables, model: Model) -> None:
    assert {key: seen(row) for key, row in tables.stock.items()} == model.stock
    assert {id_: seen(row) for id_, row in tables.reservations.items()} == model.reservations
    for source, row in tables.limits.items():
        if row.tracking == Tracking.ON:
            used = {"open_holds_max": row.open_holds, "held_units_max": row.held_units}
            assert used == model.used(source)
    movements = [(*key, *rest) for key, rest in sorted(tables.movements.items())]
    assert movements == sorted(model.movements, key=lambda movement: movement[:3])


@given(shelves, histories, batches, limits)
@MANY
def test_a_batch_has_the_same_result_as_its_commands_one_after_another(
    shelf, history, batch, limits
):
    tables, model, now = after(shelf, history, limits)
    alone = tables.copy()
    planned = tables.plan(batch, now)
    assert tables.guards_hold(planned.writes)
    tables.apply(planned.writes)
    for index, (command, outcome) in enumerate(zip(batch, planned.outcomes, strict=True)):
        at = now + index * MICROSECOND
        assert outcome_of(outcome) == outcome_of(alone.run(command, at))
        assert told(outcome) == deepcopy(model.execute(command, at))
    assert tables == alone
    assert_same(tables, model)
    event(f"answers {sorted({told(outcome)[0] for outcome in planned.outcomes})}")


@given(shelves, histories, batches, batches, limits)
@MANY
def test_a_plan_whose_guards_hold_is_serializable_despite_changes_since_the_read(
    shelf, history, batch, others, limits
):
    """All answers, those of the batch and of the others, agree with one serial order.

    The other commands run between the read and the write of the batch. A command of the batch that
    moved nothing, such as a refusal or a replay, may take effect at the read, before the others.
    Every other command takes effect at the write, after the others. Only an import may do both: it
    looks for rows at the read and inserts them at the write. It counts a row that is deleted in
    between as skipped.
    """
    if any(isinstance(command, ImportStock) for command in batch):
        others = [other for other in others if not isinstance(other, DeleteStock)]
    rows, _, now = after(shelf, history, limits)
    planned = rows.plan(batch, now)
    since = rows.copy()
    told_others = [outcome_of(since.run(other, now)) for other in others]
    if not since.guards_hold(planned.writes):
        event("a guard failed")
        return
    event("the guards held" + (" although rows had changed" if since != rows else ""))
    written = since.copy()
    written.apply(planned.writes)
    moments = Counter(movement.created_at for movement in planned.writes.movements)
    outcomes = [
        (outcome_of(outcome), moments[now + index * MICROSECOND])
        for index, outcome in enumerate(planned.outcomes)
    ]
    early: set[int] = set()
    while True:
        serial = rows.copy()
        told_now: dict[int, Any] = run(serial, batch, now, early)
        told_then = [outcome_of(serial.run(other, now)) for other in others]
        told_now |= run(serial, batch, now, set(range(len(batch))) - early)
        wrong = [index for index in told_now if told_now[index] != outcomes[index]]
        if not wrong:
            break
        late = min(set(wrong) - early, default=None)
        if late is None and is_the_known_gap(batch[wrong[0]], outcomes[wrong[0]], others):
            return
        assert late is not None, contradiction(batch, others, planned.outcomes, wrong[0])
        assert may_be_early(planned.outcomes[late]), contradiction(
            batch, others, planned.outcomes, late
        )
        early.add(late)
    for then, other in zip(told_then, told_others, strict=True):
        assert then == other or not is_stored(other)
    assert serial == written
    event(f"{len(early)} commands took effect at the read")


def run(tables: Tables, batch: Any, now: datetime, chosen: set[int]) -> dict[int, Any]:
    """Run the chosen commands; return the outcome and the number of movements of each."""
    told_now = {}
    for index in sorted(chosen):
        moved_before = len(tables.movements)
        outcome = outcome_of(tables.run(batch[index], now + index * MICROSECOND))
        told_now[index] = (outcome, len(tables.movements) - moved_before)
    return told_now


def is_stored(answer: Any) -> bool:
    """Return whether the command's answer is stored.

    The time of any other refusal is not exact: a reservation is refused when the rows are read, but
    others find its refusal only after it is written.
    """
    return answer[0] < 300 or "reservation_id" in answer[1]


def is_the_known_gap(command: Any, answer: Any, others: Any) -> bool:
    """Return whether the answer is a refusal that no serial order has to explain.

    A refusal that is not stored can't guard an identity or a row that it did not find. It may
    follow from a change in its own batch, like a 404 after a DELETE. If another process stores that
    identity or creates that row at the same time, no order explains the refusal. It wrote nothing,
    and its client may send the request again.
    """
    (status, _, _), _ = answer
    identity = getattr(command, "seq", None)
    is_stored_meanwhile = any(
        type(other) is type(command) and other.seq == identity for other in others if identity
    )
    return status == 404 or (status >= 400 and is_stored_meanwhile)


def may_be_early(outcome: Any) -> bool:
    if isinstance(outcome, Done):
        return outcome.replayed or outcome.value is None
    return True


def contradiction(batch: Any, others: Any, outcomes: Any, index: int) -> str:
    return (
        f"neither order gives {batch[index]} the outcome {outcomes[index]!r}\n"
        f"{batch=}\n{others=}\n{outcomes=}"
    )


def outcome_of(outcome: Any) -> Any:
    return (*told(outcome), outcome.replayed)
