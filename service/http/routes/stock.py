"""/v1/stock and /v1/imports: set, adjust, delete, import; read and list."""

from typing import Any

from litestar import delete, get, post, put
from litestar.types import ASGIApp

from db.queries import lists, records
from service.domain.commands import (
    AdjustStock,
    Command,
    DeleteStock,
    Outcome,
    R_co,
    SetStock,
)
from service.domain.errors import (
    AdjustmentBelowZero,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    PreconditionRequired,
    ServiceError,
    StockInUse,
    UnknownSku,
    VersionMismatch,
)
from service.http.answers import (
    Answer,
    page_answer,
    problem_answer,
    resource_answer,
    single_answer,
    stock_path,
)
from service.http.operation import Parameter, Success, documented
from service.http.query import Moment, Ordinal, Query, Text, cursor_after
from service.http.requests import (
    LARGE_BODY_MAX,
    HttpRequest,
    caller_of,
    check_source,
    header_list,
    large_body,
    place,
    precondition,
    read_body,
    seq_of,
    services_of,
)
from service.http.routes.endpoint import endpoint
from service.http.routes.parameters import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LIMIT,
    NAME,
    OF_STOCK,
    OF_VERSIONS,
    PREFIX,
    cursor,
)
from service.http.schemas import (
    AdjustmentAnswer,
    ImportAnswer,
    MovementAnswer,
    StockAnswer,
    import_answer,
    stock_answer,
)
from service.input.bodies import AdjustBody, StockBody


@put(
    "/v1/stock/{sku:str}/{location:str}",
    opt=documented(
        "Set stock",
        Success(201, "Created.", StockAnswer, ("Location", "ETag")),
        Success(200, "Replaced.", StockAnswer, ("ETag",)),
        scope="stock",
        body=StockBody,
        parameters=(
            Parameter("If-None-Match", {"const": "*"}, "Create the row.", place="header"),
            IF_MATCH,
        ),
        errors=(VersionMismatch, PreconditionRequired),
    ),
)
@endpoint
async def set_stock(request: HttpRequest) -> ASGIApp:
    """Create or replace a stock row, version-checked; `held` stays."""
    await caller_of(request, "stock")
    sku, location = _key(request)
    body = await read_body(request, StockBody)
    if_match = precondition(request, b"if-match")
    if_none_match = header_list(request, b"if-none-match")
    if if_none_match is not None and if_none_match.strip() != b"*":
        raise InvalidRequest.at("If-None-Match", "must be *")
    if if_match is None and if_none_match is None:
        raise PreconditionRequired(
            "Send If-None-Match: * to create the stock row, or its ETag as If-Match to replace it."
        )
    if if_match is not None and if_none_match is not None:
        raise InvalidRequest.at("If-Match", "can't be combined with If-None-Match")
    outcome = await _submit(
        request,
        SetStock(sku, location, body.available, body.name, body.low_stock_at, if_match),
    )
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    row = outcome.value
    address = stock_path(sku, location) if outcome.effect == "created" else None
    return resource_answer(outcome, stock_answer(row), version=row.version, location=address)


@post(
    "/v1/stock/{sku:str}/{location:str}/adjustments",
    opt=documented(
        "Adjust stock",
        Success(201, "Adjusted.", AdjustmentAnswer, ("Location", "ETag")),
        Success(
            200,
            "Adjusted before.",
            AdjustmentAnswer,
            ("Location", "ETag", "Idempotency-Replayed"),
        ),
        scope="stock",
        body=AdjustBody,
        parameters=(IDEMPOTENCY_KEY,),
        errors=(AdjustmentBelowZero, UnknownSku, VersionMismatch, IdempotencyMismatch),
    ),
)
@endpoint
async def adjust_stock(request: HttpRequest) -> ASGIApp:
    """Correct `available` by `delta`, once. `Location` is the stock row, `ETag` its version."""
    caller = await caller_of(request, "stock")
    sku, location = _key(request)
    body = await read_body(request, AdjustBody)
    check_source(caller, body.source)
    seq = seq_of(request, body.seq)
    if body.delta == 0:
        raise InvalidRequest.at("delta", "must not be 0")
    command = AdjustStock(
        caller.source, seq, sku, location, body.delta, body.reason, body.expected_version
    )
    outcome = await _submit(request, command)
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    row = outcome.value
    return resource_answer(
        outcome, row._asdict(), version=row.version, location=stock_path(row.sku, row.location)
    )


@delete(
    "/v1/stock/{sku:str}/{location:str}",
    opt=documented(
        "Delete stock",
        Success(204, "Gone; also when it was gone before."),
        scope="stock",
        parameters=(IF_MATCH,),
        errors=(StockInUse, VersionMismatch),
    ),
    status_code=200,  # what Litestar checks; the answer itself says 204
)
@endpoint
async def delete_stock(request: HttpRequest) -> ASGIApp:
    """Take a stock row away. Deleting twice is deleting once; the history stays."""
    await caller_of(request, "stock")
    sku, location = _key(request)
    command = DeleteStock(sku, location, precondition(request, b"if-match"))
    outcome = await _submit(request, command)
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    return Answer(204, [], b"")


@get(
    "/v1/stock",
    opt=documented(
        "List stock",
        Success(200, "A page, in order of creation.", StockAnswer, is_list=True),
        scope="read",
        parameters=(
            Parameter("sku_prefix", PREFIX, "Only SKUs that begin so."),
            Parameter("location", NAME, "Only at this location."),
            Parameter(
                "low",
                {"enum": ["true", "false"]},
                "Only rows whose `available` is at or below `low_stock_at`, or only the others.",
            ),
            LIMIT,
            cursor(OF_STOCK),
        ),
    ),
)
@endpoint
async def list_stock(request: HttpRequest) -> ASGIApp:
    """List stock rows."""
    await caller_of(request, "read")
    query = Query(request)
    filters: dict[str, Any] = {
        "sku_prefix": query.text("sku_prefix") or None,
        "location": query.place("location"),
    }
    low = query.choice("low", ("true", "false"))
    filters["low"] = None if low is None else low == "true"
    return await _stock_page(request, query, filters)


@get(
    "/v1/stock/{sku:str}",
    opt=documented(
        "List a SKU's stock",
        Success(200, "A page, in order of creation.", StockAnswer, is_list=True),
        scope="read",
        parameters=(LIMIT, cursor(OF_STOCK)),
        errors=(NotFound,),
    ),
)
@endpoint
async def list_sku(request: HttpRequest) -> ASGIApp:
    """List where a SKU lies."""
    await caller_of(request, "read")
    sku = place(request.scope["path_params"]["sku"], "sku")
    query = Query(request)
    return await _stock_page(request, query, {"sku": sku}, must_exist=True)


@get(
    "/v1/stock/{sku:str}/{location:str}",
    opt=documented(
        "Read stock",
        Success(200, "As it is.", StockAnswer, ("ETag",)),
        Success(304, "The client has this version."),
        scope="read",
        parameters=(IF_NONE_MATCH,),
        errors=(NotFound,),
    ),
)
@endpoint
async def read_stock(request: HttpRequest) -> ASGIApp:
    """Return one stock row."""
    await caller_of(request, "read")
    sku, location = _key(request)
    found = await services_of(request).database.read(
        lambda connection: lists.stock(connection, limit=1, sku=sku, location=location)
    )
    if not found:
        raise NotFound("There is no such stock row.")
    row = found[0][1]
    return single_answer(stock_answer(row), row.version, header_list(request, b"if-none-match"))


@get(
    "/v1/stock/{sku:str}/{location:str}/movements",
    opt=documented(
        "List a stock row's movements",
        Success(200, "A page, in order of version.", MovementAnswer, is_list=True),
        scope="read",
        parameters=(LIMIT, cursor(OF_VERSIONS)),
        errors=(NotFound,),
    ),
)
@endpoint
async def list_movements(request: HttpRequest) -> ASGIApp:
    """List every change of a stock row, also after it was deleted."""
    await caller_of(request, "read")
    sku, location = _key(request)
    query = Query(request)
    after = query.cursor(Ordinal)
    limit = query.limit()
    query.end()
    database = services_of(request).database
    found = await database.read(
        lambda connection: lists.stock_movements(
            connection, sku, location, limit=limit + 1, after=after
        )
    )
    if not found and not await database.read(
        lambda connection: records.has_history(connection, sku, location)
    ):
        raise NotFound("There is no such stock row.")
    last = found[limit - 1] if len(found) > limit else None
    return page_answer(
        [movement._asdict() for movement in found[:limit]],
        cursor_after(last.version) if last else None,
    )


@post(
    "/v1/imports",
    opt=documented(
        "Import stock",
        Success(201, "Imported.", ImportAnswer),
        Success(200, "Imported before.", ImportAnswer, ("Idempotency-Replayed",)),
        scope="stock",
        body_media_type="text/csv",
        body_example="sku,location,available,name\n85123A,main,100,White hanging heart\n",
        parameters=(Parameter("job", NAME, "The import's name.", required=True),),
        errors=(IdempotencyMismatch,),
    ),
)
@endpoint
async def import_stock(request: HttpRequest) -> ASGIApp:
    """Create the stock rows that are missing from a CSV file, once for each job name."""
    caller = await caller_of(request, "stock")
    query = Query(request)
    job = query.name("job")
    query.end()
    if job is None:
        raise InvalidRequest.at("job", "is missing: name the import, as /v1/imports?job=monday")
    async with large_body(request, "text/csv", LARGE_BODY_MAX) as raw:
        outcome = await services_of(request).imports.run(caller.source, job, raw)
    if isinstance(outcome, ServiceError):
        return problem_answer(outcome, request.scope["path"])
    row = outcome.value
    return resource_answer(outcome, import_answer(row))


async def _submit(request: HttpRequest, command: Command[R_co]) -> Outcome[R_co]:
    return (await services_of(request).coalescer.submit([command]))[0]


async def _stock_page(
    request: HttpRequest, query: Query, filters: dict[str, Any], *, must_exist: bool = False
) -> Answer:
    after = query.cursor(tuple[Moment, Text, Text])
    limit = query.limit()
    query.end()
    found = await services_of(request).database.read(
        lambda connection: lists.stock(connection, limit=limit + 1, after=after, **filters)
    )
    if must_exist and not found and after is None:
        raise NotFound("This SKU is not stocked anywhere.")
    items = [stock_answer(row) for _, row in found[:limit]]
    if len(found) <= limit:
        return page_answer(items, None)
    created_at, last = found[limit - 1]
    return page_answer(items, cursor_after((created_at, last.sku, last.location)))


def _key(request: HttpRequest) -> tuple[str, str]:
    parameters = request.scope["path_params"]
    return place(parameters["sku"], "sku"), place(parameters["location"], "location")


ROUTES = [
    set_stock,
    adjust_stock,
    delete_stock,
    list_stock,
    list_sku,
    read_stock,
    list_movements,
    import_stock,
]
