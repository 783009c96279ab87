"""A valid credential: the source that it speaks for, and its scopes."""

import time
from dataclasses import dataclass
from uuid import UUID

from db.vocabulary import Scope
from service.domain.commands import Caller


@dataclass(slots=True)
class Credential:
    """A valid credential, as it was when it was looked up."""

    id: UUID
    caller: Caller
    scopes: frozenset[str]
    looked_up_at: float
    """The moment of the look-up, in monotonic seconds."""
    requests_per_second: int | None = None
    """The source's own rate limit; None if it has none of its own."""
    ends_at: float | None = None
    """The moment from which it is expired, in monotonic seconds; None if it does not expire."""

    def allows(self, scope: str) -> bool:
        """True when the credential has that scope, or all of them."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def is_expired(self) -> bool:
        """True when the time for which it is valid has passed."""
        return self.ends_at is not None and time.monotonic() >= self.ends_at
