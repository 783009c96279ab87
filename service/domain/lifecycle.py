"""The state machine of a reservation, as a table: each state, each step, and the verdict.

             ┌─ confirm ─► confirmed ── refund all ─► refunded
reserve ─► held ─ cancel ─► cancelled
   │         └─ deadline ─► expired
   └─ short ─► rejected            reserve without hold_seconds ─► confirmed

Before any other step, a hold whose deadline has passed takes the step `expire`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

from db.rows import Reservation
from db.vocabulary import State
from service.domain.errors import IllegalTransition

Step: TypeAlias = Literal["confirm", "cancel", "extend", "refund", "refund_rest", "expire"]
"""`refund_rest` is the refund of the last units; `expire` comes from the clock, not a client."""

CLIENT_STEPS: tuple[Step, ...] = ("confirm", "cancel", "extend", "refund")

REPEATED: Final = "repeated"
"""The verdict on a step that has led to the present state: it is answered again, without effect.

A confirm must ask for the lines that were confirmed; else it is an illegal transition.
"""

NOTHING_DUE: Final = "nothing due"
"""The verdict on `expire` where there is no hold: nothing happens."""

StepVerdict: TypeAlias = State | Literal["repeated", "nothing due"] | type[IllegalTransition]
"""The state that a step leads to, or the reason why the step can't be taken."""


class Verdicts(NamedTuple):
    """The verdict on each step from one state."""

    confirm: StepVerdict
    cancel: StepVerdict
    extend: StepVerdict
    refund: StepVerdict
    refund_rest: StepVerdict
    expire: StepVerdict


ENDED = Verdicts(
    confirm=IllegalTransition,
    cancel=IllegalTransition,
    extend=IllegalTransition,
    refund=IllegalTransition,
    refund_rest=IllegalTransition,
    expire=NOTHING_DUE,
)
"""The verdicts in a final state."""

LIFECYCLE: Mapping[str, Verdicts] = {
    State.HELD: Verdicts(
        confirm=State.CONFIRMED,
        cancel=State.CANCELLED,
        extend=State.HELD,
        refund=IllegalTransition,
        refund_rest=IllegalTransition,
        expire=State.EXPIRED,
    ),
    State.CONFIRMED: Verdicts(
        confirm=REPEATED,
        cancel=IllegalTransition,
        extend=IllegalTransition,
        refund=State.CONFIRMED,
        refund_rest=State.REFUNDED,
        expire=NOTHING_DUE,
    ),
    State.CANCELLED: ENDED._replace(cancel=REPEATED),
    State.EXPIRED: ENDED,
    State.REFUNDED: ENDED,
    State.REJECTED: ENDED,
}


def first_state(*, is_short: bool, is_hold: bool) -> State:
    """Return the state in which a reservation begins."""
    if is_short:
        return State.REJECTED
    return State.HELD if is_hold else State.CONFIRMED


def verdict_on(state: str, step: Step) -> StepVerdict:
    """Return the table's verdict on a step from a state."""
    verdict: StepVerdict = getattr(LIFECYCLE[state], step)
    return verdict


def state_after(state: str, step: Step) -> State:
    """Return the state that a legal step leads to."""
    verdict = verdict_on(state, step)
    if isinstance(verdict, State):
        return verdict
    raise AssertionError(f"a plan takes the step {step} from the state {state}")


def is_overdue(reservation: Reservation, at: datetime) -> bool:
    """True for a hold at or after its deadline: the clock's step `expire` is due."""
    deadline = reservation.expires_at
    return reservation.state == State.HELD and deadline is not None and at >= deadline


def allowed(state: str) -> list[str]:
    """Return the steps that a client can take from a state."""
    return [step for step in CLIENT_STEPS if isinstance(verdict_on(state, step), State)]
