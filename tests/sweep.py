"""The table for the sweep over every operation: requests of each one, and the world they meet.

The world has two sources. Everything that belongs to the first is marked with its name, so that a
trace of it in an answer to the second is easy to find.
"""

import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from db.session.driver import Driver

MARK = "alpha"
"""The first source. The second is `beta`."""
OPEN = {
    "get_liveness",
    "get_readiness",
    "get_metrics",
    "get_openapi_document",
    "get_openapi_page",
    "get_problem_page",
}
"""The operations that need no key."""
NOWHERE = {
    **dict.fromkeys(("held", "other", "sold"), f"/v1/reservations/{uuid.UUID(int=1)}"),
    "refund": f"/v1/reservations/{uuid.UUID(int=1)}/refunds/{uuid.UUID(int=2)}",
    "key": f"/v1/keys/{uuid.UUID(int=1)}",
}
"""Addresses of the same kinds at which nothing is."""


@dataclass(frozen=True)
class Ask:
    """A request; its path may name one of the addresses of the world, as `{held}/confirm`."""

    path: str
    sent: dict[str, Any] = field(default_factory=dict)

    @property
    def names_a_thing(self) -> bool:
        """True when the path names something that belongs to a source."""
        return self.path.startswith("{")


def of(path: str, body: Any = None, **more: Any) -> Ask:
    """A request with a JSON body, if there is one."""
    return Ask(path, {**({} if body is None else {"json": body}), **more})


HOLD = {"lines": [{"sku": "A", "quantity": 1}], "hold_seconds": 900}
LINE = [{"sku": "A", "quantity": 1}]
CREATE, CSV = {"If-None-Match": "*"}, {"Content-Type": "text/csv"}
MOVEMENTS = "/v1/stock/A/main/movements"

REQUESTS: dict[str, list[Ask]] = {
    "reserve": [of("/v1/reservations", {**HOLD, "seq": f"{MARK}-held"})],
    "reserve_batch": [
        of("/v1/reservations/batch", {"reservations": [{**HOLD, "seq": f"{MARK}-batch"}]})
    ],
    "list_reservations": [
        of("/v1/reservations"), of(f"/v1/reservations?seq={MARK}-sold"),
        of("/v1/reservations?sku=A&state=held"), of("/v1/reservations?limit=1"),
    ],
    "get_reservation": [of("{held}"), of("{sold}", headers={"If-None-Match": '"2"'})],
    "list_reservation_movements": [of("{held}/movements"), of("{sold}/movements?limit=1")],
    "extend_reservation": [of("{held}/extend", {"hold_seconds": 60})],
    "confirm_reservation": [
        of("{held}/confirm", {"lines": [{"sku": "A", "quantity": 9}]}), of("{held}/confirm"),
        of("{sold}/confirm"),
    ],
    "cancel_reservation": [of("{other}/cancel"), of("{sold}/cancel")],
    "refund_reservation": [
        of("{sold}/refunds", {"seq": "r", "lines": [{"sku": "A", "quantity": 9}]}),
        of("{held}/refunds", {"seq": "r", "lines": LINE}),
        of("{sold}/refunds", {"seq": f"{MARK}-refund"}),
    ],
    "list_refunds": [of("{sold}/refunds")],
    "get_refund": [of("{refund}"), of("{refund}", headers={"If-None-Match": '"1"'})],
    "list_stock": [of("/v1/stock"), of("/v1/stock?sku_prefix=A")],
    "list_stock_of_sku": [of("/v1/stock/A")],
    "get_stock": [of("/v1/stock/A/main")],
    "list_stock_movements": [of(MOVEMENTS), of(f"{MOVEMENTS}?limit=2")],
    "set_stock": [of("/v1/stock/B/main", {"available": 1}, headers=CREATE)],
    "adjust_stock": [
        of("/v1/stock/A/main/adjustments", {"seq": f"{MARK}-a", "delta": 1, "reason": "r"})
    ],
    "delete_stock": [of("/v1/stock/B/main")],
    "import_stock": [of(f"/v1/imports?job={MARK}-job", content="C,main,1\n", headers=CSV)],
    "audit": [of("/v1/audit")],
    "create_key": [of("/v1/keys", {"seq": "2", "source": "s", "scopes": ["read"]})],
    "list_keys": [of("/v1/keys")],
    "get_key": [of("{key}")],
    "rotate_key": [of("{key}/rotate", {"seq": "3"})],
    "revoke_key": [of("{key}")],
    "get_source_limits": [of("/v1/sources/us/limits")],
    "set_source_limits": [of("/v1/sources/us/limits", {"open_holds_max": 9})],
    "list_access_log": [of("/v1/access-log")],
    "get_liveness": [of("/health/live")],
    "get_readiness": [of("/health/ready")],
    "get_metrics": [of("/metrics")],
    "get_openapi_document": [of("/schema/openapi.json")],
    "get_openapi_page": [of("/schema")],
    "get_problem_page": [of("/problems/not-found")],
}  # fmt: skip
"""Requests by the id of their operation; those of the first source succeed or are conflicts."""


@dataclass(frozen=True)
class Described:
    """An operation of an OpenAPI document."""

    id: str
    method: str
    scope: str | None
    is_list: bool


async def served(client: httpx.AsyncClient) -> list[Described]:
    """Return the operations of the document that a service serves."""
    return described((await client.get("/schema/openapi.json")).json())


def described(document: dict[str, Any]) -> list[Described]:
    """Return the operations of a document."""
    return [
        Described(
            operation["operationId"],
            method.upper(),
            operation["security"][0]["key"][0] if operation["security"] else None,
            any(parameter["name"] == "cursor" for parameter in operation["parameters"]),
        )
        for methods in document["paths"].values()
        for method, operation in methods.items()
    ]


def check_complete(found: list[Described]) -> None:
    """Fail for an operation that the sweep does not know, and for one that is open by mistake."""
    assert {each.id for each in found} == set(REQUESTS), "add its requests to tests/sweep.py"
    assert {each.id for each in found if each.scope is None} == OPEN, "an operation lacks its scope"


async def settle(client: httpx.AsyncClient, headers: dict[str, str], mark: str) -> dict[str, str]:
    """Make the things of a source; return their addresses by name."""
    places = {}
    for name in ("held", "other", "sold"):
        body = {**HOLD, "seq": f"{mark}-{name}", "metadata": {mark: f"{mark}-secret"}}
        made = await client.post("/v1/reservations", json=body, headers=headers)
        places[name] = made.headers["Location"]
    await client.post(f"{places['sold']}/confirm", headers=headers)
    body = {"seq": f"{mark}-given", "reason": f"{mark}-reason", "lines": LINE}
    refund = await client.post(f"{places['sold']}/refunds", json=body, headers=headers)
    return {**places, "refund": refund.headers["Location"]}


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the statements of all connections that are opened from now on."""
    statements: list[str] = []
    begin = Driver.__init__

    def initialize(self: Driver, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self.add_query_logger(lambda query: statements.append(query.query))

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "__init__", initialize)
        yield statements


def plain(response: httpx.Response) -> tuple[int, Any, list[str]]:
    """Return what an answer tells: status, body and headers, without its own address and id."""
    names = sorted(name for name in response.headers if name != "x-request-id")
    try:
        body = response.json()
    except json.JSONDecodeError:
        body = response.text
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in OWN}
    return response.status_code, body, names


OWN = ("instance", "request_id")

Send = Callable[[Ask, dict[str, str]], Awaitable[httpx.Response]]
