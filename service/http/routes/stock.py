"""/v1/stock and /v1/imports: set, adjust, delete, import; read and list."""

from typing import Any

from db import rows
from db.queries import lists, records
from db.vocabulary import Scope
from service.domain.commands import AdjustStock, DeleteStock, Outcome, SetStock
from service.domain.errors import (
    AdjustmentBelowZero,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    PreconditionRequired,
    StockInUse,
    UnknownSku,
    VersionMismatch,
)
from service.http.call import Call
from service.http.operation import Found, Success, operation
from service.http.reading.body_kinds import CSV, LARGE_BODY_MAX, csv_body, json_body, large_body
from service.http.reading.cursors import BY_VERSION, STOCK_BY_CREATION, Page, listed, page_of
from service.http.reading.parameters import (
    CREATE_ONLY,
    FLAG,
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    NAME,
    PREFIX,
    STOCK_NAME,
    QueryParameter,
)
from service.http.resources import ADJUSTMENT, IMPORT, MOVEMENT, STOCK
from service.http.uses import Logged
from service.input.bodies import AdjustBody, StockBody


@operation(
    "PUT",
    "/v1/stock/{sku}/{location}",
    "Set stock",
    Success(201, "Created.", STOCK, ("Location", "ETag")),
    Success(200, "Replaced.", STOCK, ("ETag",)),
    scope=Scope.STOCK,
    logged=Logged.EACH_USE,
    body=json_body(StockBody),
    parameters=(CREATE_ONLY, IF_MATCH),
    errors=(VersionMismatch, PreconditionRequired),
)
async def set_stock(call: Call[StockBody]) -> Outcome[rows.Stock]:
    """Create a stock row, or replace the version that `If-Match` names; `held` does not change."""
    key, body, version = call.stock_key, call.body, _version_to_replace(call)
    return await call.submit(SetStock(*key, body.available, body.name, body.low_stock_at, version))


def _version_to_replace(call: Call[Any]) -> int | None:
    """The version to replace; None to create the row. Raises `PreconditionRequired`."""
    version = call.expected_version
    if_none_match = call.header_list(b"if-none-match")
    if if_none_match is not None and if_none_match.strip() != b"*":
        raise InvalidRequest.at("If-None-Match", "must be *")
    if version is None and if_none_match is None:
        raise PreconditionRequired(
            "Send If-None-Match: * to create the stock row, or its ETag as If-Match to replace it."
        )
    if version is not None and if_none_match is not None:
        raise InvalidRequest.at("If-Match", "can't be combined with If-None-Match")
    return version


@operation(
    "POST",
    "/v1/stock/{sku}/{location}/adjustments",
    "Adjust stock",
    Success(201, "Adjusted.", ADJUSTMENT, ("Location", "ETag")),
    Success(200, "Adjusted before.", ADJUSTMENT, ("Location", "ETag", "Idempotency-Replayed")),
    scope=Scope.STOCK,
    logged=Logged.EACH_USE,
    body=json_body(AdjustBody),
    parameters=(IDEMPOTENCY_KEY,),
    errors=(AdjustmentBelowZero, UnknownSku, VersionMismatch, IdempotencyMismatch),
)
async def adjust_stock(call: Call[AdjustBody]) -> Outcome[rows.Adjustment]:
    """Correct `available` by `delta`, once. `Location` is the stock row, `ETag` its version."""
    key, body = call.stock_key, call.body
    call.check_source(body.source)
    seq = call.seq(body.seq)
    if body.delta == 0:
        raise InvalidRequest.at("delta", "must not be 0")
    source = call.caller.source
    return await call.submit(
        AdjustStock(source, seq, *key, body.delta, body.reason, body.expected_version)
    )


@operation(
    "DELETE",
    "/v1/stock/{sku}/{location}",
    "Delete stock",
    Success(204, "The row does not exist any more."),
    scope=Scope.STOCK,
    logged=Logged.EACH_USE,
    parameters=(IF_MATCH,),
    errors=(StockInUse, VersionMismatch),
)
async def delete_stock(call: Call[None]) -> Outcome[None]:
    """Delete a stock row. To delete it twice has the same effect; its movements remain."""
    return await call.submit(DeleteStock(*call.stock_key, call.expected_version))


@operation(
    "GET",
    "/v1/stock",
    "List stock",
    Success(200, "A page, in order of creation.", STOCK, is_list=True),
    scope=Scope.READ,
    logged=Logged.EACH_USE,
    parameters=(
        QueryParameter("sku_prefix", "Only SKUs that begin with this text.", PREFIX),
        QueryParameter("location", "Only at this location.", STOCK_NAME),
        QueryParameter(
            "low",
            "`true`: only rows with `available` at or below `low_stock_at`; `false`: only others.",
            FLAG,
        ),
        *listed(STOCK_BY_CREATION),
    ),
)
async def list_stock(call: Call[None]) -> Page:
    """List stock rows."""
    filters = {name: call.query[name] for name in ("sku_prefix", "location", "low")}
    return await _stock_page(call, **filters)


@operation(
    "GET",
    "/v1/stock/{sku}",
    "List a SKU's stock",
    Success(200, "A page, in order of creation.", STOCK, is_list=True),
    scope=Scope.READ,
    logged=Logged.EACH_USE,
    parameters=listed(STOCK_BY_CREATION),
    errors=(NotFound,),
)
async def list_stock_of_sku(call: Call[None]) -> Page:
    """List the stock rows of a SKU, one for each location."""
    page = await _stock_page(call, sku=call.sku)
    if not page.rows and call.query["cursor"] is None:
        raise NotFound("This SKU is not stocked anywhere.")
    return page


@operation(
    "GET",
    "/v1/stock/{sku}/{location}",
    "Read stock",
    Success(200, "The stock row.", STOCK, ("ETag",)),
    Success(304, "The client has this version."),
    scope=Scope.READ,
    logged=Logged.EACH_USE,
    parameters=(IF_NONE_MATCH,),
    errors=(NotFound,),
)
async def get_stock(call: Call[None]) -> Found:
    """Return one stock row."""
    sku, location = call.stock_key
    found = await call.read(
        lambda connection: lists.stock(connection, limit=1, sku=sku, location=location)
    )
    if not found:
        raise NotFound("There is no such stock row.")
    return Found(found[0][1])


@operation(
    "GET",
    "/v1/stock/{sku}/{location}/movements",
    "List a stock row's movements",
    Success(200, "A page, in order of version.", MOVEMENT, is_list=True),
    scope=Scope.READ,
    logged=Logged.EACH_USE,
    parameters=listed(BY_VERSION),
    errors=(NotFound,),
)
async def list_stock_movements(call: Call[None]) -> Page:
    """List every change of a stock row, even after the row was deleted.

    `reservation_id` is null if the reservation belongs to another source.
    """
    key, limit = call.stock_key, call.query["limit"]
    found = await call.read(
        lambda connection: lists.stock_movements(
            connection,
            *key,
            limit=limit + 1,
            after=call.query["cursor"],
            source=call.caller.only_source,
        )
    )
    if not found and not await call.read(lambda connection: records.has_history(connection, *key)):
        raise NotFound("There is no such stock row.")
    return page_of(found, limit, BY_VERSION)


@operation(
    "POST",
    "/v1/imports",
    "Import stock",
    Success(201, "Imported.", IMPORT),
    Success(200, "Imported before.", IMPORT, ("Idempotency-Replayed",)),
    scope=Scope.STOCK,
    logged=Logged.EACH_USE,
    body=csv_body("sku,location,available,name\n85123A,main,100,White hanging heart\n"),
    parameters=(
        QueryParameter("job", "The import's name.", NAME, required=True, example="monday"),
    ),
    errors=(IdempotencyMismatch,),
)
async def import_stock(call: Call[None]) -> Outcome[rows.ImportJob]:
    """Create the stock rows of a CSV file that do not exist yet, once for each job name."""
    async with large_body(call, CSV, LARGE_BODY_MAX) as raw:
        return await call.worker.imports.run(call.caller.source, call.query["job"], raw)


async def _stock_page(call: Call[None], **filters: Any) -> Page:
    limit, after = call.query["limit"], call.query["cursor"]
    found = await call.read(
        lambda connection: lists.stock(connection, limit=limit + 1, after=after, **filters)
    )
    page = page_of(found, limit, STOCK_BY_CREATION)
    return page._replace(rows=[row for _, row in page.rows])


ROUTES = [
    set_stock,
    adjust_stock,
    delete_stock,
    list_stock,
    list_stock_of_sku,
    get_stock,
    list_stock_movements,
    import_stock,
]
