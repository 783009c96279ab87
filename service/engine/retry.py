"""When a lost race is run again: how often, how soon, and how much of it a process may do at all.

Retries help a service that loses a race now and then and finish off one that loses most of them, so
each process has a budget beside each request's own: a bucket of tokens that its traffic fills (as
in Finagle's RetryBudget and in gRPC's retry throttling). An empty one means `contention`.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a lost race is run again. Backoff doubles and is fully jittered."""

    attempts_max: int = 8  # a batch that escalated wins unless a lock can't be had at all
    lock_after_attempts: int = 3  # lost thrice, it takes its rows FOR UPDATE
    seconds_max: float = 5.0  # the answer is `contention` after that
    wait_first_seconds: float = 0.002  # about one COMMIT
    wait_max_seconds: float = 0.2
    share_max: float = 0.1  # of the commands carried out: more is load that serves nobody
    burst_max: int = 100  # a rush out of the blue, or a database that failed over
    spare_per_second: float = 10.0  # "a tenth of nothing" must not mean that nobody may try again

    def wait_seconds(self, attempt: int) -> float:
        """Return how long to wait after this many attempts."""
        longest = min(self.wait_max_seconds, self.wait_first_seconds * 2**attempt)
        return random.uniform(0, longest)  # noqa: S311 - jitter, not a secret


class RetryBudget:
    """The retries one process may still make: a share of its traffic, and a few to begin with."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._tokens = float(policy.burst_max)
        self._filled_at = clock()

    def earn(self, commands: int) -> None:
        """Add the share of this much traffic."""
        self._add(commands * self._policy.share_max)

    def spend(self) -> bool:
        """Take one retry out; False when there is none left."""
        now = self._clock()
        self._add((now - self._filled_at) * self._policy.spare_per_second)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._policy.burst_max, self._tokens + tokens)
