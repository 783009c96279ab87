"""The planner against the serial model, and its guards against changes in the meantime."""

import os
from collections import Counter
from copy import deepcopy
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, event, given, settings

from service.domain.commands import DeleteStock, Done, ImportStock
from service.domain.planner import MICROSECOND
from tests.commands import START, batches, histories, shelves
from tests.model import Model
from tests.tables import Tables, seen, told

EXAMPLES = int(os.environ.get("HOLDFAST_TEST_EXAMPLES", "400"))
MANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


def lived(shelf: Any, history: Any) -> tuple[Tables, Model, datetime]:
    """A state that some history leads to, as tables and as the model has it."""
    tables, model, now = Tables(), Model(), START
    for wait, command in [(MICROSECOND, command) for command in shelf] + history:
        now += wait + MICROSECOND
        assert told(tables.run(command, now)) == model.execute(command, now)
    return tables, model, now + MICROSECOND


def assert_same(tables: Tables, model: Model) -> None:
    assert {key: seen(row) for key, row in tables.stock.items()} == model.stock
    assert {id_: seen(row) for id_, row in tables.reservations.items()} == model.reservations
    movements = [(*key, *rest) for key, rest in sorted(tables.movements.items())]
    assert movements == sorted(model.movements, key=lambda movement: movement[:3])


@given(shelves, histories, batches)
@MANY
def test_a_batch_has_the_same_result_as_its_commands_one_by_one(shelf, history, batch):
    tables, model, now = lived(shelf, history)
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


@given(shelves, histories, batches, batches)
@MANY
def test_guards_that_hold_make_the_plan_right_despite_changes_since(shelf, history, batch, others):
    """Some order of the commands explains every answer, the batch's and the others'.

    Those that changed nothing else (a refusal, a replay) may have been carried out when the rows
    were read, before the others; the rest when they were written, after them. An import alone may
    do both: it looks first and inserts after, and counts a row deleted in between as skipped.
    """
    if any(isinstance(command, ImportStock) for command in batch):
        others = [other for other in others if not isinstance(other, DeleteStock)]
    rows, _, now = lived(shelf, history)
    planned = rows.plan(batch, now)
    since = rows.copy()
    told_others = [outcome_of(since.run(other, now)) for other in others]
    if not since.guards_hold(planned.writes):
        event("a guard failed")
        return
    event("the guards held" + (" though things had changed" if since != rows else ""))
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
        assert late is not None, explained(batch, others, planned.outcomes, wrong[0])
        assert may_be_early(planned.outcomes[late]), explained(
            batch, others, planned.outcomes, late
        )
        early.add(late)
    for then, other in zip(told_then, told_others, strict=True):
        assert then == other or not is_remembered(other)
    assert serial == written
    event(f"{len(early)} verdicts were about the moment of reading")


def run(tables: Tables, batch: Any, now: datetime, chosen: set[int]) -> dict[int, Any]:
    """What the chosen commands come to, and how many movements each makes."""
    told_now = {}
    for index in sorted(chosen):
        moved_before = len(tables.movements)
        outcome = outcome_of(tables.run(batch[index], now + index * MICROSECOND))
        told_now[index] = (outcome, len(tables.movements) - moved_before)
    return told_now


def is_remembered(answer: Any) -> bool:
    """Whether the command left something behind. The moment of another refusal is not exact: a
    reservation is refused when the rows are read, and its refusal is found once it is written."""
    return answer[0] < 300 or "reservation_id" in answer[1]


def is_the_known_gap(command: Any, answer: Any, others: Any) -> bool:
    """A refusal that is not remembered can't guard an identity or a row that it did not find.

    It may follow from a change in its own batch, like a 404 after a DELETE. If another process
    stores that identity or creates that row at the same time, no order explains the refusal. It
    wrote nothing, and its client may send it again."""
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


def explained(batch: Any, others: Any, outcomes: Any, index: int) -> str:
    return (
        f"neither then nor now: {batch[index]} came to {outcomes[index]!r}\n"
        f"{batch=}\n{others=}\n{outcomes=}"
    )


def outcome_of(outcome: Any) -> Any:
    return (*told(outcome), outcome.replayed)
