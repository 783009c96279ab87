"""/v1/access-log: uses of admin keys, and refused requests."""

from db.queries import access_log
from db.vocabulary import Scope
from service.http.call import Call
from service.http.operation import Success, operation
from service.http.reading.cursors import BY_TIME, Page, listed, page_of
from service.http.reading.parameters import IDENTIFIER, MOMENT, NAME, STATUS, QueryParameter
from service.http.resources import ACCESS_LOG_ENTRY
from service.http.uses import Logged


@operation(
    "GET",
    "/v1/access-log",
    "List the access log",
    Success(200, "A page, in order of time.", ACCESS_LOG_ENTRY, is_list=True),
    scope=Scope.ADMIN,
    logged=Logged.NO_USE,
    parameters=(
        QueryParameter("key_id", "Only with this key.", IDENTIFIER),
        QueryParameter("source", "Only by this source.", NAME),
        QueryParameter("status", "Only with this status of the answer.", STATUS),
        QueryParameter("created_after", "Only after this moment.", MOMENT),
        QueryParameter("created_before", "Only before this moment.", MOMENT),
        *listed(BY_TIME),
    ),
)
async def list_access_log(call: Call[None]) -> Page:
    """List uses of admin keys and refusals of the last 90 days.

    A use appears within a second. Equal refusals of a minute are one entry, with their `count`.
    """
    limit = call.query["limit"]
    filters = {name: call.query[name] for name in FILTERS}
    found = await call.read(
        lambda connection: access_log.entries(
            connection, limit=limit + 1, after=call.query["cursor"], **filters
        )
    )
    return page_of(found, limit, BY_TIME)


FILTERS = ("key_id", "source", "status", "created_after", "created_before")

ROUTES = [list_access_log]
