"""The entries of the access log about a request: uses of admin keys, and refusals."""

from enum import Enum
from typing import Any

from db.vocabulary import Scope
from service.engine.access_log import Access
from service.http.access.credential import Credential
from service.http.call import Call

REFUSALS = {401: "unauthenticated", 403: "forbidden", 429: "rate_limited"}
"""The statuses that count as refusals, and their words in the log."""


class Logged(Enum):
    """Which uses of an admin key an operation notes in the access log."""

    EACH_USE = "each use"
    OTHER_SOURCES = "each use that reaches a reservation of another source"
    NO_USE = "no use"


def note_access(call: Call[Any], logged: Logged | None, status: int) -> None:
    """Note an answered request in the access log, if it is a refusal or a use to be noted."""
    credential: Credential | None = getattr(call, "credential", None)
    if status in REFUSALS:
        note_refusal(call, status, credential)
    elif credential is not None and Scope.ADMIN in credential.scopes and is_noted(call, logged):
        call.worker.access_log.note_use(_access(call, status, credential), call.request_id)


def note_refusal(call: Call[Any], status: int, credential: Credential | None = None) -> None:
    """Note a refusal, in the access log and in the log of the process."""
    call.worker.access_log.note_refusal(_access(call, status, credential))
    if status != 429:
        call.worker.refusals.note(call.address, REFUSALS[status], call.request_id)


def is_noted(call: Call[Any], logged: Logged | None) -> bool:
    """True when the operation notes this use of an admin key."""
    if logged is Logged.OTHER_SOURCES:
        return call.reaches_other_source
    return logged is Logged.EACH_USE


def _access(call: Call[Any], status: int, credential: Credential | None) -> Access:
    return Access(
        key_id=credential.id if credential else None,
        source=credential.caller.source if credential else None,
        address=call.address,
        method=str(call.scope.get("method")),
        route=call.scope.get("path_template") or "unknown",
        status=status,
    )
