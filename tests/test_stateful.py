"""The whole service is compared with the model, over HTTP, with random requests in random order."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import httpx
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from service.domain.commands import (
    AdjustStock,
    Cancel,
    Confirm,
    DeleteStock,
    Expire,
    Extend,
    ImportStock,
    RefundUnits,
    Reserve,
    SetStock,
)
from service.domain.identifiers import reservation_id
from service.engine.sweeper import sweep
from tests.commands import SEQS, SOURCES, moves, reserves, shelves, stock_commands
from tests.conftest import Service, assert_books_balance, fresh_database, running_service
from tests.model import Model

LONG = 600  # no deadline passes during a test


class Shop:
    """A running service and the keys of its callers; all examples share it."""

    def __init__(self, runner: asyncio.Runner, service: Service) -> None:
        self.runner = runner
        self.service = service
        self.keys = {
            (source, admin): runner.run(service.key(source, *scopes))
            for source in SOURCES
            for admin, scopes in ((False, ("reserve", "stock", "read")), (True, ("admin",)))
        }
        self.worlds = itertools.count()

    def send(self, caller: tuple[str, bool], method: str, path: str, **more: Any) -> httpx.Response:
        headers = self.keys[caller] | more.pop("headers", {})
        request = self.service.client.request(method, path, headers=headers, **more)
        return self.runner.run(request)


class World:
    """Gives the names in commands a prefix for each example, so that examples share a database."""

    def __init__(self, number: int) -> None:
        self.prefix = f"{number}-"
        self.ids = {
            reservation_id(source, seq): reservation_id(source, self.prefix + seq)
            for source in SOURCES
            for seq in SEQS
        }

    def own(self, command: Any) -> Any:
        names = {name: getattr(command, name) for name in command.__slots__}
        for name in ("sku", "seq", "job"):
            if name in names:
                names[name] = self.prefix + names[name]
        if names.get("hold_seconds"):
            names["hold_seconds"] = LONG
        if names.get("id"):
            names["id"] = self.id_of(command)
        if names.get("lines"):
            names["lines"] = tuple(
                line._replace(sku=self.prefix + line.sku) for line in names["lines"]
            )
        if "rows" in names:
            names["rows"] = tuple((self.prefix + sku, *rest) for sku, *rest in names["rows"])
            names |= {
                "digest": self.csv(names["rows"]),
                "first": 0,
            }  # a request over HTTP has all rows
        if "effective_id" in names:
            names["effective_id"] = names["id"] or reservation_id(names["source"], names["seq"])
        return replace(command, **names)

    def id_of(self, command: Any) -> UUID:
        """Return the id of a reservation; an id to reserve is the derived one or looks random."""
        derived = self.ids.get(command.id)
        if not isinstance(command, Reserve):
            return derived or UUID(int=uuid5(command.id, self.prefix).int, version=4)
        if derived == reservation_id(command.source, self.prefix + command.seq):
            return derived
        return UUID(int=uuid5(command.id, self.prefix).int, version=4)

    def csv(self, rows: Any) -> str:
        return "".join(f"{sku},{location},{units}\n" for sku, location, units, _ in rows)


def request_of(command: Any) -> tuple[tuple[str, bool], str, str, dict[str, Any]]:
    """Return the caller, the method, the path and the other arguments of the request."""
    match command:
        case Reserve():
            return (command.source, False), "POST", "/v1/reservations", {"json": body_of(command)}
        case Confirm() | Cancel() | Extend() | RefundUnits():
            caller = (command.caller.source, command.caller.every_source)
            step = {Confirm: "confirm", Cancel: "cancel", Extend: "extend", RefundUnits: "refunds"}
            path = f"/v1/reservations/{command.id}/{step[type(command)]}"
            return caller, "POST", path, {"json": body_of(command)}
        case ImportStock():
            more = {"content": command.digest, "headers": {"Content-Type": "text/csv"}}
            return (command.source, False), "POST", f"/v1/imports?job={command.job}", more
    path = f"/v1/stock/{command.sku}/{command.location}"
    version = command.expected_version
    condition = {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}
    match command:
        case SetStock():
            more = {"json": {"available": command.available}, "headers": condition}
            return ("us", False), "PUT", path, more
        case DeleteStock():
            return ("us", False), "DELETE", path, {"headers": condition if version else {}}
        case AdjustStock():
            names = ("seq", "delta", "reason", "expected_version")
            body = {name: getattr(command, name) for name in names}
            return (command.source, False), "POST", f"{path}/adjustments", {"json": body}
    raise AssertionError(command)


def body_of(command: Any) -> dict[str, Any]:
    names = set(command.__slots__) & {"seq", "id", "hold_seconds", "metadata", "reason"}
    names -= set() if isinstance(command, Reserve) else {"id"}
    body = {name: getattr(command, name) for name in names}
    if body.get("id"):
        body["id"] = str(body["id"])
    if getattr(command, "lines", None):
        body["lines"] = [
            {"sku": line.sku, "location": line.location, "quantity": line.quantity}
            for line in command.lines
        ]
    return body


def told(status: int, body: Any) -> tuple[int, Any]:
    """Return an answer in the words of the model."""
    if not body:
        return status, None
    if "code" in body:
        names = ("code", "field", "current", "state")
        facts = {name: body[name] for name in names if name in body}
        for name in ("shortages", "refundable", "unknown"):
            if name in body:
                facts[name] = sorted(sorted(map(str, entry.values())) for entry in body[name])
        return status, facts
    return status, seen(body)


def seen(body: Any) -> dict[str, Any]:
    names = ("state", "version", "available", "held", "delta", "created", "skipped")
    found = {name: body[name] for name in names if name in body}
    if "lines" in body:
        found["lines"] = sorted(
            [line[name] for name in ("sku", "quantity", "confirmed", "refunded") if name in line]
            for line in body["lines"]
        )
    return found


def expected(answer: tuple[int, Any]) -> tuple[int, Any]:
    """Return an answer of the model in the form of JSON."""
    status, value = answer
    if value is None:
        return status, None
    body = dict(value)
    for name, fields in (("shortages", 2), ("refundable", 1)):
        if name in body:
            body[name] = [
                dict(enumerate((*key, *(value if fields == 2 else (value,)))))
                for key, value in body[name].items()
            ]
    if "unknown" in body:
        body["unknown"] = [dict(enumerate(key)) for key in body["unknown"]]
    if "lines" in body:
        body["lines"] = [line_of(key, units) for key, units in body["lines"].items()]
    return told(status, body)


def line_of(key: Any, units: Any) -> dict[str, Any]:
    numbers = units if isinstance(units, list) else [units]
    return {
        "sku": key[0],
        **dict(zip(("quantity", "confirmed", "refunded"), numbers, strict=False)),
    }


class ServiceMachine(RuleBasedStateMachine):
    shop: Shop

    def __init__(self) -> None:
        super().__init__()
        self.world = World(next(self.shop.worlds))
        self.model = Model()
        self.now = datetime(2020, 1, 1, tzinfo=UTC)

    def moment(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now

    def carry_out(self, command: Any) -> None:
        command = self.world.own(command)
        caller, method, path, more = request_of(command)
        response = self.shop.send(caller, method, path, **more)
        body = response.json() if response.content else None
        answer = expected(self.model.execute(command, self.moment()))
        assert told(response.status_code, body) == answer, (command, response.text)

    @initialize(shelf=shelves)
    def stock_the_shelves(self, shelf: Any) -> None:
        for command in shelf:
            self.carry_out(command)

    @rule(command=reserves)
    def reserve(self, command: Any) -> None:
        self.carry_out(command)

    @rule(command=moves.filter(lambda command: not isinstance(command, Expire)))
    def move(self, command: Any) -> None:
        self.carry_out(command)

    @rule(command=stock_commands)
    def change_stock(self, command: Any) -> None:
        self.carry_out(command)

    @rule(entries=st.lists(reserves, min_size=1, max_size=5), source=st.sampled_from(SOURCES))
    def reserve_many(self, entries: Any, source: str) -> None:
        commands = [self.world.own(replace(entry, source=source)) for entry in entries]
        body = {"reservations": [body_of(command) for command in commands]}
        response = self.shop.send((source, False), "POST", "/v1/reservations/batch", json=body)
        for command, result in zip(commands, response.json()["results"], strict=True):
            answer = expected(self.model.execute(command, self.moment()))
            found = result.get("reservation") or result["problem"]
            assert told(result["status"], found) == answer, (command, result)

    @rule(n=st.integers(0, 9))
    def deadline_passes(self, n: int) -> None:
        held = [id_ for id_, row in self.model.reservations.items() if row["state"] == "held"]
        if held:
            id_, passed = held[n % len(held)], self.moment()
            self.model.reservations[id_]["expires_at"] = passed
            statement = "UPDATE reservation SET expires_at = $1 WHERE id = $2"
            self.shop.runner.run(self.shop.service.sql(statement, passed, id_))

    @rule()
    def sweep(self) -> None:
        services = self.shop.service.app.worker
        self.shop.runner.run(sweep(services.database, services.coalescer))
        rows = sorted(self.model.reservations.values(), key=lambda row: str(row["expires_at"]))
        for row in rows:
            self.model.execute(Expire(row["id"]), self.moment())

    def teardown(self) -> None:
        """Check that all rows and the ledger equal the model's, and that the books balance."""
        admin = ("us", True)
        for (sku, location), row in self.model.stock.items():
            response = self.shop.send(admin, "GET", f"/v1/stock/{sku}/{location}")
            assert response.status_code == (404 if row["deleted"] else 200)
            assert row["deleted"] or told(200, response.json()) == expected((200, row))
            response = self.shop.send(admin, "GET", f"/v1/stock/{sku}/{location}/movements")
            moved = [tuple(movement_of(move)) for move in response.json()["items"]]
            assert moved == [move for move in self.model.movements if move[0] == sku]
        for id_, row in self.model.reservations.items():
            response = self.shop.send(admin, "GET", f"/v1/reservations/{id_}")
            assert told(200, response.json()) == expected((200, row))
        self.shop.runner.run(assert_books_balance(self.shop.service.url))


def movement_of(move: dict[str, Any]) -> Iterator[Any]:
    for name in ("sku", "location", "version", "kind", "available_delta", "held_delta"):
        yield move[name]
    yield UUID(move["reservation_id"]) if move["reservation_id"] else None
    yield move["reservation_version"]


@contextmanager
def open_shop(postgres_url: str) -> Iterator[Shop]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        url = runner.run(stack.enter_async_context(fresh_database(postgres_url)))
        service = runner.run(stack.enter_async_context(running_service(url, sweeps=False)))
        try:
            yield Shop(runner, service)
        finally:
            runner.run(stack.aclose())


def test_the_service_answers_and_stores_the_same_as_the_model(postgres_url):
    with open_shop(postgres_url) as shop:
        machine = type("Machine", (ServiceMachine,), {"shop": shop})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=25,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                phases=(Phase.generate,),  # shrinking a history of requests takes minutes
                suppress_health_check=list(HealthCheck),
            ),
        )
