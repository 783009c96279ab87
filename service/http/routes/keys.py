"""/v1/keys: create, rotate and revoke; read and list."""

from datetime import timedelta
from typing import Any

from db.queries import credentials
from db.vocabulary import Scope
from service.domain.commands import Outcome
from service.domain.errors import (
    IdempotencyMismatch,
    IllegalKeyTransition,
    LastAdminKey,
    NotFound,
)
from service.http.access import issuance
from service.http.access.issuance import Identity, WantedKey
from service.http.call import Call
from service.http.operation import Found, Success, operation
from service.http.reading.body_kinds import json_body, optional_json_body
from service.http.reading.cursors import BY_CREATION, Page, listed, page_of
from service.http.reading.parameters import IDEMPOTENCY_KEY, NAME, QueryParameter
from service.http.resources import KEY, NEW_KEY
from service.http.uses import Logged
from service.input.bodies import KeyBody, RotateBody

REPLAY = Success(
    200, "Made before; without the key itself.", KEY, ("Location", "Idempotency-Replayed")
)


@operation(
    "POST",
    "/v1/keys",
    "Create a key",
    Success(201, "Created; with the key itself.", NEW_KEY, ("Location",), is_secret=True),
    REPLAY,
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
    body=json_body(KeyBody),
    parameters=(IDEMPOTENCY_KEY,),
    errors=(IdempotencyMismatch,),
)
async def create_key(call: Call[KeyBody]) -> Outcome[Any]:
    """Create a key, which only this answer shows. `source` is the source of the new key."""
    body = call.body
    wanted = WantedKey(body.source, tuple(body.scopes), body.label, body.expires_at)
    return await issuance.create_key(
        call.worker.database, wanted, _identity(call, call.seq(body.seq))
    )


@operation(
    "GET",
    "/v1/keys",
    "List keys",
    Success(200, "A page, in order of creation.", KEY, is_list=True),
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
    parameters=(QueryParameter("source", "Only of this source.", NAME), *listed(BY_CREATION)),
)
async def list_keys(call: Call[None]) -> Page:
    """List the keys of all sources, including those that were revoked or have expired."""
    limit = call.query["limit"]
    found = await call.read(
        lambda connection: credentials.list_page(
            connection,
            limit=limit + 1,
            after=call.query["cursor"],
            source=call.query["source"],
        )
    )
    return page_of(found, limit, BY_CREATION)


@operation(
    "GET",
    "/v1/keys/{id}",
    "Read a key",
    Success(200, "The key, without the key itself.", KEY),
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
    errors=(NotFound,),
)
async def get_key(call: Call[None]) -> Found:
    """Return a key, also one that was revoked or has expired."""
    id_ = call.key_id
    row = await call.read(lambda connection: credentials.find_by_id(connection, id_))
    if row is None:
        raise issuance.no_such_key()
    return Found(row)


@operation(
    "POST",
    "/v1/keys/{id}/rotate",
    "Rotate a key",
    Success(201, "Rotated; with the new key itself.", NEW_KEY, ("Location",), is_secret=True),
    REPLAY,
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
    body=optional_json_body(RotateBody),
    parameters=(IDEMPOTENCY_KEY,),
    errors=(NotFound, IllegalKeyTransition, IdempotencyMismatch),
)
async def rotate_key(call: Call[RotateBody]) -> Outcome[Any]:
    """Make a key with the same source, scopes and label; the old one ends after the grace."""
    grace = timedelta(seconds=call.body.grace_seconds)
    identity = _identity(call, call.seq(call.body.seq))
    return await issuance.rotate_key(call.worker.database, call.key_id, grace, identity)


@operation(
    "DELETE",
    "/v1/keys/{id}",
    "Revoke a key",
    Success(204, "The key is revoked."),
    scope=Scope.ADMIN,
    logged=Logged.EACH_USE,
    errors=(NotFound, LastAdminKey),
)
async def revoke_key(call: Call[None]) -> Outcome[None]:
    """Revoke a key; it stops working within a second. To revoke it twice has the same effect."""
    return await issuance.revoke_key(call.worker.database, call.key_id)


def _identity(call: Call[Any], seq: str) -> Identity:
    return Identity(call.caller.source, seq)


ROUTES = [create_key, list_keys, get_key, rotate_key, revoke_key]
