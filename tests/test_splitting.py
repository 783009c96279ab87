"""The decision table for a batch that failed as a whole: each part is run again or refused."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from db.rows import Line
from service.domain.commands import Caller, Cancel, Reserve
from service.domain.errors import (
    Contention,
    InternalError,
    OutcomeUnknown,
    ServiceError,
    Unavailable,
)
from service.domain.identifiers import reservation_id
from service.engine.ledger import NeedsSplitting
from service.engine.queue import Submission
from service.engine.splitting import (
    FIRST_APART,
    NOT_APART,
    Failure,
    Refuse,
    Run,
    RunInParts,
    SetApart,
    split,
    split_commands,
)

ATTEMPTS_MAX = 4
LAST = ATTEMPTS_MAX

A_IS_LOCKED = NeedsSplitting({("A", "main")})
CAUSE_UNKNOWN = NeedsSplitting(set())
"""An unexpected error occurred, or rows are locked and it is not known which ones."""
OTHER_ROW_LOCKED = NeedsSplitting({("no command names it", "main")})
FOR_THE_BATCH = [
    Contention("The budget for retries is spent.", attempts=2),
    Unavailable("The database is unreachable."),
    OutcomeUnknown("The connection died at COMMIT."),
    InternalError("The service failed."),
]


def reserve(sku: str) -> Reserve:
    lines = (Line(sku, "main", 1),)
    return Reserve("us", sku, None, lines, 60, {}, reservation_id("us", sku))


def batch(text: str) -> list[Submission]:
    """Return a submission for each word, with a command for each letter; the letter is its SKU."""
    return [
        Submission([reserve(sku) for sku in word], asyncio.Future(), 0.0, len(word), 0.0)
        for word in text.split()
    ]


def words(submissions: list[Submission]) -> str:
    return " ".join(
        "".join(command.lines[0].sku for command in each.commands)  # type: ignore[union-attr]
        for each in submissions
    )


def decisions(text: str, failure: Failure, attempt: int) -> list[Any]:
    """Return the steps in the form of the rows of the table."""
    steps: list[Any] = []
    for step in split(batch(text), failure, attempt=attempt, attempts_max=ATTEMPTS_MAX):
        match step:
            case Refuse(submissions, error):
                steps.append(("refuse", words(submissions), type(error)))
            case Run(submissions, attempt_):
                steps.append(("run", words(submissions), attempt_))
            case SetApart(submissions, locked):
                assert locked == failure.blocked  # type: ignore[union-attr]
                steps.append(("set apart", words(submissions)))
            case RunInParts(submission, attempt_):
                steps.append(("run in parts", words([submission]), attempt_))
    return steps


@dataclass(frozen=True)
class Case:
    """A row of the table: a failed batch and the steps that replace it."""

    batch: str
    failure: Failure
    attempt: int
    steps: list[Any]


TABLE = [
    # The cause is unknown: halve the batch. Split a submission that is alone into its commands.
    Case("B C", CAUSE_UNKNOWN, NOT_APART, [("run", "B", 0), ("run", "C", 0)]),
    Case("B C D", CAUSE_UNKNOWN, NOT_APART, [("run", "B", 0), ("run", "C D", 0)]),
    Case("B C DE", CAUSE_UNKNOWN, 2, [("run", "B", 2), ("run", "C DE", 2)]),
    Case("BC", CAUSE_UNKNOWN, NOT_APART, [("run in parts", "BC", 0)]),
    Case("BC", CAUSE_UNKNOWN, LAST, [("run in parts", "BC", LAST)]),
    # A row is locked, but no submission names it: split in the same way.
    Case("B C", OTHER_ROW_LOCKED, NOT_APART, [("run", "B", 0), ("run", "C", 0)]),
    Case("BC", OTHER_ROW_LOCKED, NOT_APART, [("run in parts", "BC", 0)]),
    # Rows are locked for the first time: submissions that do not name them don't wait.
    Case("A B A C", A_IS_LOCKED, NOT_APART, [("set apart", "A A"), ("run", "B C", 0)]),
    Case("BA C", A_IS_LOCKED, NOT_APART, [("set apart", "BA"), ("run", "C", 0)]),
    Case("A A", A_IS_LOCKED, NOT_APART, [("set apart", "A A")]),
    Case("AB", A_IS_LOCKED, NOT_APART, [("set apart", "AB")]),
    # Rows are locked again: the other submissions run first, and the attempts are counted.
    Case("A A", A_IS_LOCKED, FIRST_APART, [("run", "A A", 2)]),
    Case("A B A", A_IS_LOCKED, FIRST_APART, [("run", "B", 1), ("run", "A A", 2)]),
    Case("A AB", A_IS_LOCKED, LAST - 1, [("run", "A AB", LAST)]),
    # The last attempt has failed: run the submissions and commands that name no locked row.
    Case(
        "A C AB",
        A_IS_LOCKED,
        LAST,
        [("run", "C", LAST), ("refuse", "A", Contention), ("run in parts", "AB", LAST + 1)],
    ),
    Case(
        "AB A",
        A_IS_LOCKED,
        LAST,
        [("run in parts", "AB", LAST + 1), ("refuse", "A", Contention)],
    ),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case.batch}, attempt {case.attempt}")
async def test_a_failed_batch_is_replaced_by_these_steps(case):
    assert decisions(case.batch, case.failure, case.attempt) == case.steps


@pytest.mark.parametrize("attempt", [NOT_APART, FIRST_APART, LAST])
@pytest.mark.parametrize("text", ["A", "A B", "AB", "AB C"])
@pytest.mark.parametrize("error", FOR_THE_BATCH, ids=lambda error: error.code)
async def test_a_failure_of_the_whole_batch_refuses_every_submission(error, text, attempt):
    assert decisions(text, error, attempt) == [("refuse", text, type(error))]


async def test_a_refusal_for_contention_reports_the_number_of_attempts():
    (step,) = split(batch("A"), A_IS_LOCKED, attempt=LAST, attempts_max=ATTEMPTS_MAX)
    assert isinstance(step, Refuse)
    assert step.error.fields["attempts"] == LAST + 1


async def test_a_submission_that_names_a_locked_reservation_is_set_apart():
    """The command names no stock row, but the reservation that it names is locked."""
    id_ = reservation_id("us", "1")
    cancel = Cancel(Caller("us"), id_)
    naming = Submission([cancel], asyncio.Future(), 0.0, 1, 0.0)
    other = batch("B")[0]
    steps = split([naming, other], NeedsSplitting({id_}), attempt=NOT_APART, attempts_max=1)
    assert steps == [SetApart([naming], {id_}), Run([other], NOT_APART)]


@pytest.mark.parametrize("attempt", range(ATTEMPTS_MAX + 1))
@pytest.mark.parametrize("failure", [A_IS_LOCKED, CAUSE_UNKNOWN, *FOR_THE_BATCH], ids=repr)
@pytest.mark.parametrize("text", ["AB", "A B", "AB A CB", "A B C A B C A"])
async def test_every_submission_is_in_exactly_one_step(text, failure, attempt):
    whole = batch(text)
    placed: list[Submission] = []
    for step in split(whole, failure, attempt=attempt, attempts_max=ATTEMPTS_MAX):
        placed += [step.submission] if isinstance(step, RunInParts) else step.submissions
    assert sorted(map(id, placed)) == sorted(map(id, whole))


def parts(skus: str, failure: Failure) -> list[tuple[str, type[ServiceError] | None]]:
    """Return the parts: the SKUs of their commands and the type of their answer."""
    commands = [reserve(sku) for sku in skus]
    return [
        ("".join(skus[position] for position in part.positions), part.answer and type(part.answer))
        for part in split_commands(commands, failure, attempt=3)
    ]


@pytest.mark.parametrize(
    ("skus", "failure", "expected"),
    [
        ("BC", CAUSE_UNKNOWN, [("B", None), ("C", None)]),
        ("BCDEF", CAUSE_UNKNOWN, [("BC", None), ("DEF", None)]),
        ("BC", OTHER_ROW_LOCKED, [("B", None), ("C", None)]),
        ("BAC", A_IS_LOCKED, [("BC", None), ("A", Contention)]),
        ("AA", A_IS_LOCKED, [("AA", Contention)]),
        *(("ABC", error, [("ABC", type(error))]) for error in FOR_THE_BATCH),
    ],
)
def test_commands_that_failed_together_are_replaced_by_these_parts(skus, failure, expected):
    assert parts(skus, failure) == expected


def test_a_command_that_is_refused_for_contention_reports_the_number_of_attempts():
    (part,) = split_commands([reserve("A")] * 2, A_IS_LOCKED, attempt=3)
    assert part.answer is not None
    assert part.answer.fields["attempts"] == 3


def raised(error: ServiceError) -> ServiceError:
    """Raise and catch the error, so that it has frames; return it."""
    try:
        raise error
    except ServiceError:
        return error


async def test_an_error_in_a_decision_keeps_no_frames():
    """Otherwise frame, step and error would refer to each other in a circle and stay in memory."""
    error = raised(Unavailable("The database is unreachable."))
    assert error.__traceback__ is not None
    (step,) = split(batch("A"), error, attempt=NOT_APART, attempts_max=1)
    assert isinstance(step, Refuse)
    assert step.error.__traceback__ is None
