"""/v1/sources: the limits of a source."""

from db.vocabulary import Scope
from service.http.call import Call
from service.http.operation import Found, Success, operation
from service.http.reading.body_kinds import json_body
from service.http.resources import SOURCE_LIMITS
from service.http.uses import Logged
from service.input.bodies import LimitsBody


@operation(
    "PUT",
    "/v1/sources/{source}/limits",
    "Set a source's limits",
    Success(200, "The limits, which are in force from now on.", SOURCE_LIMITS),
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
    body=json_body(LimitsBody),
)
async def set_source_limits(call: Call[LimitsBody]) -> Found:
    """Replace the limits of a source; a limit that is absent or null is removed.

    The answer to a first limit may take as long as a transaction that is under way.
    """
    return Found(await call.worker.source_limits.put(call.source, call.body.model_dump()))


@operation(
    "GET",
    "/v1/sources/{source}/limits",
    "Read a source's limits",
    Success(200, "The limits, and their use by its open holds.", SOURCE_LIMITS),
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
)
async def get_source_limits(call: Call[None]) -> Found:
    """Return the limits of a source, null where it has none, and their use."""
    return Found(await call.worker.source_limits.get(call.source))


ROUTES = [set_source_limits, get_source_limits]
