"""The state machine of a reservation, as a table.

             ┌─ confirm ─► confirmed ── refund all ─► refunded
reserve ─► held ─ cancel ─► cancelled
   │         └─ deadline ─► expired
   └─ short ─► rejected            reserve without hold_seconds ─► confirmed
"""

from db.vocabulary import State

TRANSITIONS: dict[tuple[str, str], State] = {
    (State.HELD, "confirm"): State.CONFIRMED,
    (State.HELD, "cancel"): State.CANCELLED,
    (State.HELD, "extend"): State.HELD,
    (State.HELD, "expire"): State.EXPIRED,
    (State.CONFIRMED, "refund"): State.CONFIRMED,
}
"""(state, transition) → the state it leads to. A refund of the last unit leads to `refunded`."""

REPEATS: set[tuple[str, str]] = {
    (State.CONFIRMED, "confirm"),
    (State.CANCELLED, "cancel"),
}
"""Transitions that already hold: asked again they are answered and move nothing."""


def allowed(state: str) -> list[str]:
    """Return the transitions that a client can ask for in that state."""
    return [
        transition
        for from_state, transition in TRANSITIONS
        if from_state == state and transition != "expire"
    ]
