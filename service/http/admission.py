"""Admission: each request with a valid credential counts for its source, in the API and the page.

A request is counted before its scope is checked and before its body is read, so that a refusal
costs little.
"""

from typing import Any

from service.domain.errors import RateLimited, Unauthenticated
from service.http.call import Call
from service.http.responses import ALLOWANCE


async def admit(call: Call[Any], source: str, own_rate: int | None) -> None:
    """Count a request of a source, whose own limit may be None. Raises `RateLimited`."""
    worker = call.worker
    quota = worker.rate_limit.quota(own_rate)
    if quota:
        allowance = await worker.rate_limit.take(source, quota)
        call.scope[ALLOWANCE] = allowance  # type: ignore[literal-required]  # our own key
        if not allowance.is_admitted:
            await worker.refusal_pauses.pause(source)
            raise RateLimited(
                f"The source {source} may send {quota} requests a second.",
                retry_after_seconds=allowance.retry_after_seconds,
            )
    worker.in_flight.begin(source)
    call.source_in_flight = source


async def count_entries(call: Call[Any], count: int) -> None:
    """Count the entries of a batch, which was admitted as one request; they may leave a debt."""
    quota = call.worker.rate_limit.quota(call.credential.requests_per_second)
    if quota and count > 1:
        allowance = await call.worker.rate_limit.take(
            call.caller.source, quota, count - 1, owes=True
        )
        call.scope[ALLOWANCE] = allowance  # type: ignore[literal-required]  # our own key


def refusal_without_key(call: Call[Any], error: Unauthenticated) -> Unauthenticated | RateLimited:
    """Count a request without a valid key; return the error that answers it."""
    return call.worker.keyless.refusal(call.address, error)
