"""The fixed words of the contract: states, kinds of movements, scopes and names of strategies.

The database's CHECKs, the rules, the HTTP interface, the settings and the command line take them
from here, so that a new word is added once.
"""

from collections.abc import Iterable
from enum import StrEnum


class State(StrEnum):
    """The states of a reservation."""

    HELD = "held"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REFUNDED = "refunded"
    REJECTED = "rejected"


class MovementKind(StrEnum):
    """The kinds of changes that the ledger records."""

    SET = "set"
    IMPORT = "import"
    ADJUST = "adjust"
    DELETE = "delete"
    RESERVE = "reserve"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REFUND = "refund"


RESERVATION_KINDS = (
    MovementKind.RESERVE,
    MovementKind.CONFIRM,
    MovementKind.CANCEL,
    MovementKind.EXPIRE,
    MovementKind.REFUND,
)
"""The kinds of movements that belong to a reservation; all others belong to stock alone."""


class Scope(StrEnum):
    """The permissions that an API key can have."""

    RESERVE = "reserve"
    STOCK = "stock"
    READ = "read"
    ADMIN = "admin"
    """Includes all other scopes."""


class KeyState(StrEnum):
    """The states of an API key."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Tracking(StrEnum):
    """Whether the open holds of a source and their units are tracked."""

    OFF = "off"
    COUNTING = "counting"
    ON = "on"


class StrategyName(StrEnum):
    """The names of the strategies that keep concurrent transactions apart."""

    GUARD = "guard"
    VERSION = "version"
    PESSIMISTIC = "pessimistic"
    SERIALIZABLE = "serializable"
    ADVISORY = "advisory"
    REDIS = "redis"
    ZOOKEEPER = "zookeeper"


DISTRIBUTED_STRATEGIES = (StrategyName.REDIS, StrategyName.ZOOKEEPER)
"""The strategies whose locks another server keeps. The client of that server is an extra."""


def sql_list(words: Iterable[str]) -> str:
    """Return the words as a list of SQL literals: `'held', 'confirmed'`."""
    return ", ".join(f"'{word}'" for word in words)
