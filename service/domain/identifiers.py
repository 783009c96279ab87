"""The ids that follow from a request's identity, so that a client can compute them in advance."""

import hashlib
from uuid import NAMESPACE_URL, UUID, uuid5


def reservation_id(source: str, seq: str) -> UUID:
    """Return the id of a reservation for which the client chooses none."""
    return _uuid5(_namespace(source), seq)


def refund_id(source: str, seq: str) -> UUID:
    """Return the id of a refund."""
    return uuid5(_namespace(source), f"refund:{seq}")


def adjustment_id(source: str, seq: str) -> UUID:
    """Return the id of an adjustment."""
    return uuid5(_namespace(source), f"adjustment:{seq}")


def _namespace(source: str) -> UUID:
    if source not in _NAMESPACES:
        if len(_NAMESPACES) >= NAMESPACES_MAX:
            _NAMESPACES.clear()
        _NAMESPACES[source] = uuid5(NAMESPACE_URL, f"holdfast:{source}")
    return _NAMESPACES[source]


_NAMESPACES: dict[str, UUID] = {}
NAMESPACES_MAX = 10_000  # there are few sources, but every cache needs a bound


def _uuid5(namespace: UUID, name: str) -> UUID:
    """The UUID of RFC 9562, 5.5, like `uuid.uuid5`, but without its detour over a string."""
    digest = hashlib.sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF000 << 64) | (5 << 76)
    number = number & ~(0xC000 << 48) | (0x8000 << 48)
    return UUID(int=number)
