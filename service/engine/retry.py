"""Retries of a batch that lost a race: their number, their pauses, and their share of the work.

Retries help a service that loses a race now and then, and they overload one that loses most of its
races. So each process has a budget in addition to the limit of each request: a bucket of tokens
that its traffic fills (like Finagle's RetryBudget and gRPC's retry throttling). When the bucket is
empty, the answer is `contention`.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The limits and the pauses of retries. The longest pause doubles, with full jitter."""

    attempts_max: int = 8  # after it has escalated, a batch wins unless it can't get a lock at all
    lock_after_attempts: int = 3  # then it takes its rows FOR UPDATE
    seconds_max: float = 5.0  # after that the answer is `contention`
    wait_first_seconds: float = 0.002  # about one COMMIT
    wait_max_seconds: float = 0.2
    share_max: float = 0.1  # of the commands carried out; more would only add load
    burst_max: int = 100  # for a sudden rush, or after a failover of the database
    spare_per_second: float = 10.0  # so that a service with little traffic can retry, too

    def wait_seconds(self, attempt: int) -> float:
        """Return the pause after this many attempts."""
        longest = min(self.wait_max_seconds, self.wait_first_seconds * 2**attempt)
        return random.uniform(0, longest)  # noqa: S311 - jitter, not a secret


class RetryBudget:
    """The retries that a process may still make: a share of its traffic, and some at the start."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._tokens = float(policy.burst_max)
        self._filled_at = clock()

    def earn(self, commands: int) -> None:
        """Add the share of this number of commands."""
        self._add(commands * self._policy.share_max)

    def spend(self) -> bool:
        """Take one retry from the budget; False if none is left."""
        now = self._clock()
        self._add((now - self._filled_at) * self._policy.spare_per_second)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._policy.burst_max, self._tokens + tokens)
