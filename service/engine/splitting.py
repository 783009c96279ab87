"""Splitting: a table decides what happens to the parts of a batch that failed as a whole.

Submissions that shared a batch:

    failure                 batch                   decision
    ----------------------  ----------------------  ------------------------------------------------
    holds for the batch     any                     refuse every submission with the failure
    rows are locked, some   not set apart           set those submissions apart; run the others now
    submissions name them   apart, attempts left    run the others; then run those again
                            apart, none left        run the others; then split each of those that
                                                    has several commands into parts, and refuse each
                                                    that has one as contended
    anything else           several submissions     run each half
                            one submission          split it into parts

Commands of one submission that is split into parts:

    failure                 decision
    ----------------------  ------------------------------------------------------------------------
    holds for all of them   answer every command with the failure
    rows are locked, some   run the others; answer those that name a locked row as contended
    commands name them
    anything else           run each half

A failure that holds for the whole batch is a `ServiceError`: contention, an unreachable database,
an unknown outcome. Every other failure is `NeedsSplitting`: another session holds rows locked, and
the ledger may know which ones; or an unexpected error occurred, and halving finds the command. The
ledger never raises `NeedsSplitting` for a single command, so splitting always ends.

The functions here are pure; `Coalescer` carries their decisions out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from service.domain.commands import Command, names_of
from service.domain.errors import Contention, ServiceError
from service.engine.ledger import NeedsSplitting
from service.engine.queue import Submission

NOT_APART = 0
"""The attempt of a batch that was not set apart."""
FIRST_APART = 1
"""The attempt of a batch that has just been set apart; each later attempt adds 1."""

Failure: TypeAlias = ServiceError | NeedsSplitting


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer every submission with the error."""

    submissions: list[Submission]
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Run:
    """Run the submissions as one batch and wait for its end."""

    submissions: list[Submission]
    attempt: int


@dataclass(frozen=True, slots=True)
class SetApart:
    """Start to run the submissions beside the lanes, which leave the locked rows alone until then.

    The next step does not wait for them.
    """

    submissions: list[Submission]
    locked: set[Any]


@dataclass(frozen=True, slots=True)
class RunInParts:
    """Run the commands of one submission in parts, so that a command that fails does so alone."""

    submission: Submission
    attempt: int


BatchStep: TypeAlias = Refuse | Run | SetApart | RunInParts


def split(
    submissions: list[Submission], failure: Failure, *, attempt: int, attempts_max: int
) -> list[BatchStep]:
    """Return the steps that replace a failed batch, in the order in which to take them.

    Each submission is in one of the steps.
    """
    if isinstance(failure, ServiceError):
        return [Refuse(submissions, failure.as_value())]
    locked = failure.blocked
    blocked = [each for each in submissions if not locked.isdisjoint(each.names())]
    if blocked:
        free = [each for each in submissions if locked.isdisjoint(each.names())]
        run_free: list[BatchStep] = [Run(free, attempt)] if free else []
        if attempt == NOT_APART:
            return [SetApart(blocked, locked), *run_free]
        return run_free + _retry_locked(blocked, attempt + 1, attempts_max)
    if len(submissions) > 1:
        middle = len(submissions) // 2
        return [Run(submissions[:middle], attempt), Run(submissions[middle:], attempt)]
    return [RunInParts(submissions[0], attempt)]


def _retry_locked(blocked: list[Submission], attempt: int, attempts_max: int) -> list[BatchStep]:
    """Run the submissions again; after the last attempt, run the commands that can still be run."""
    if attempt <= attempts_max:
        return [Run(blocked, attempt)]
    return [
        RunInParts(each, attempt)
        if len(each.commands) > 1
        else Refuse([each], _contention(attempt))
        for each in blocked
    ]


@dataclass(frozen=True, slots=True)
class CommandPart:
    """Some of the commands that failed together: to be run again, or to be given an answer."""

    positions: Sequence[int]
    """The indices of the commands."""
    answer: ServiceError | None = None
    """The answer to each of the commands; None when they are to be run."""


def split_commands(
    commands: Sequence[Command[Any]], failure: Failure, *, attempt: int
) -> list[CommandPart]:
    """Return the parts that replace a failed run of commands, in the order in which to run them.

    Each command is in one of the parts, and within a part they keep their order.
    """
    positions = range(len(commands))
    if isinstance(failure, ServiceError):
        return [CommandPart(positions, failure.as_value())]
    is_free = [failure.blocked.isdisjoint(names_of(command)) for command in commands]
    if all(is_free):
        middle = len(positions) // 2
        return [CommandPart(positions[:middle]), CommandPart(positions[middle:])]
    free = [position for position in positions if is_free[position]]
    blocked = [position for position in positions if not is_free[position]]
    answered = CommandPart(blocked, _contention(attempt))
    return [CommandPart(free), answered] if free else [answered]


def _contention(attempts: int) -> Contention:
    return Contention("The stock is locked by another session.", attempts=attempts)
