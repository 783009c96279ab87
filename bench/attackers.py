"""Requests that are designed to be expensive for the service, sent repeatedly.

This is a separate process: `python -m bench.attackers NAME --url … --seconds …`, with the key on
standard input.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import uvloop

PART_BYTES = 256 * 1024
ANSWER_SECONDS_MAX = 90.0
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Attack:
    """The bytes of an attack, the number of its connections and how each of them ends."""

    description: str
    make: Callable[[str, int], bytes]
    """The bytes of a request, from the key and the request's number."""
    connections: int = 1
    drips: float = 0.0
    """Seconds between two bytes; 0 sends all at once."""
    waits: bool = True
    """Wait for the answer; else leave the request unfinished and hold the connection."""
    per_second: float = 0.0
    """Requests a second, on connections that stay open; 0 sends without a pause on new ones."""
    limit: int = 0
    """The requests a second that the attacker may send, as a source of its own; 0 is no limit."""


@dataclass(slots=True)
class Tally:
    """The requests and bytes that an attack sent, and the answers."""

    requests: int = 0
    bytes_sent: int = 0
    answers: dict[str, int] = field(default_factory=dict)

    def note(self, answer: str) -> None:
        """Count an answer by its status, or a failure by its name."""
        self.answers[answer] = self.answers.get(answer, 0) + 1


def head(method: str, path: str, key: str, *lines: str, length: int | None = None) -> bytes:
    """Return a request's head; without a key it has no Authorization."""
    given = [f"{method} {path} HTTP/1.1", "Host: holdfast"]
    if key:
        given.append(f"Authorization: Bearer {key}")
    if length is not None:
        given.append(f"Content-Length: {length}")
    return "\r\n".join([*given, *lines, "", ""]).encode()


def json_of(path: str, body: bytes) -> Callable[[str, int], bytes]:
    """Return an attack that posts a JSON body."""
    kind = "Content-Type: application/json"
    return lambda key, _: head("POST", path, key, kind, length=len(body)) + body


def get(path: str, *lines: str, with_key: bool = True) -> Callable[[str, int], bytes]:
    """Return an attack that gets a path."""
    return lambda key, _: head("GET", path, key if with_key else "", *lines)


def csv_of(rows: bytes) -> Callable[[str, int], bytes]:
    """Return an attack that imports a file, each time under another job name."""

    def make(key: str, number: int) -> bytes:
        path = f"/v1/imports?job=attack-{time.time_ns()}-{number}"
        return head("POST", path, key, "Content-Type: text/csv", length=len(rows)) + rows

    return make


def reserving(key: str, number: int) -> bytes:
    """Return a reservation with a new seq."""
    body = b'{"seq":"%d-%d","lines":[{"sku":"S1","quantity":1}]}' % (time.time_ns(), number)
    return json_of("/v1/reservations", body)(key, number)


def unknown_members(size: int) -> bytes:
    """Return unknown members that fill the given number of bytes."""
    members, total, number = [], 0, 0
    while total < size:
        members.append(f'"u{number}":1')
        total += len(members[-1]) + 1
        number += 1
    return ",".join(members).encode()


def import_of(count: int) -> Callable[[str, int], bytes]:
    """Return an attack that imports new stock rows, different ones each time."""

    def make(key: str, number: int) -> bytes:
        stamp = f"{time.time_ns() % 10**9:x}{number}"
        rows = b"".join(b"I%s-%d,,1\n" % (stamp.encode(), row) for row in range(count))
        return csv_of(b"sku,location,available\n" + rows)(key, number)

    return make


ENTRY = b'{"seq":"x","lines":[%s]}' % b",".join([b"{}"] * 1000)
BODY_HEAD = ("Content-Type: application/json",)

ATTACKS = {
    "an Accept of commas": Attack(
        "1 MB of commas in Accept, without a key",
        get("/v1/stock", "Accept: " + "," * MEBIBYTE, with_key=False),
    ),
    "a head of 50 MB": Attack(
        "one header of 50 MB, without a key",
        get("/health/live", "A: " + "x" * 50 * MEBIBYTE, with_key=False),
    ),
    "a million lines": Attack(
        "a million header lines, without a key",
        get("/health/live", *["A: b"] * 1_000_000, with_key=False),
    ),
    "a quoted key of 5 MB": Attack(
        "an Idempotency-Key of 5 MB",
        get("/v1/stock", 'Idempotency-Key: "' + "x" * 5 * MEBIBYTE + '"', with_key=False),
    ),
    "nothing sent": Attack("connections without a request", lambda *_: b"", 1500, waits=False),
    "dripped heads": Attack(
        "heads that arrive byte by byte", get("/health/live", with_key=False), 1000, drips=0.3
    ),
    "dripped bodies": Attack(
        "bodies that arrive byte by byte",
        lambda key, _: head("POST", "/v1/reservations", key, *BODY_HEAD, length=500) + b" " * 500,
        200,
        drips=0.3,
    ),
    "audits": Attack("audits", get("/v1/audit"), 8),
    "lists": Attack(
        "lists that find nothing", get("/v1/reservations?state=rejected&sku=S1&limit=500"), 8
    ),
    "unknown members": Attack(
        "100,000 unknown members in a reservation",
        json_of("/v1/reservations", b"{%s}" % unknown_members(MEBIBYTE - 100)),
    ),
    "a batch entry": Attack(
        "an entry with 330,000 unknown members in a batch",
        json_of(
            "/v1/reservations/batch",
            b'{"reservations":[{%s}]}' % unknown_members(4 * MEBIBYTE - 100),
        ),
    ),
    "empty lines": Attack(
        "1,000 entries of 1,000 empty lines in a batch",
        json_of("/v1/reservations/batch", b'{"reservations":[%s]}' % b",".join([ENTRY] * 1000)),
    ),
    "a file of errors": Attack(
        "2,000,000 bad lines in an import", csv_of(b"x\n" * (2 * MEBIBYTE - 100))
    ),
    "a long prefix": Attack("a sku_prefix of 8 kB", get(f"/v1/stock?sku_prefix={'%25' * 2600}")),
    "a large import": Attack("150,000 rows in an import", import_of(150_000)),
    "the document": Attack("the OpenAPI document", get("/schema/openapi.json", with_key=False), 2),
    "a noisy source": Attack(
        "reservations of a source that sends 1,000 a second and may send 100",
        reserving,
        16,
        per_second=1000,
        limit=100,
    ),
    "unfinished bodies": Attack(
        "60 bodies of 4 MiB less a byte",
        lambda key, _: (
            head("POST", "/v1/reservations/batch", key, *BODY_HEAD, length=4 * MEBIBYTE)
            + b" " * (4 * MEBIBYTE - 1)
        ),
        60,
        waits=False,
    ),
}


async def attack(name: str, url: str, key: str, seconds: float) -> Tally:
    """Attack for some seconds."""
    chosen, tally = ATTACKS[name], Tally()
    host, port = url.removeprefix("http://").split(":")
    end_at = time.monotonic() + seconds

    async def one() -> None:
        if chosen.per_second:
            await _pace(chosen, host, int(port), key, tally)
        while time.monotonic() < end_at:
            try:
                await _exchange(chosen, host, int(port), key, tally)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                tally.note(type(error).__name__)
                await asyncio.sleep(0.01)

    attackers = [asyncio.create_task(one()) for _ in range(chosen.connections)]
    await asyncio.wait(attackers, timeout=seconds)
    for attacker in attackers:
        attacker.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    return tally


async def _pace(chosen: Attack, host: str, port: int, key: str, tally: Tally) -> None:
    """Send requests on one connection, at its share of the rate, until cancelled."""
    reader, writer = await asyncio.open_connection(host, port)
    pause, due_at = chosen.connections / chosen.per_second, time.monotonic()
    while True:
        due_at = max(due_at + pause, time.monotonic() - pause)  # do not catch up on a long stall
        await asyncio.sleep(due_at - time.monotonic())
        tally.requests += 1
        await _send(writer, chosen.make(key, tally.requests), 0.0, tally)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(LENGTH.findall(answer)[0]))
        tally.note(answer[9:12].decode())


async def _exchange(chosen: Attack, host: str, port: int, key: str, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        tally.requests += 1
        await _send(writer, chosen.make(key, tally.requests), chosen.drips, tally)
        if not chosen.waits:
            await reader.read()
            return
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            tally.note((await reader.readuntil(b"\r\n"))[9:12].decode())
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _send(writer: asyncio.StreamWriter, sent: bytes, drips: float, tally: Tally) -> None:
    """Send until the server closes the connection; its answer is read afterwards."""
    step = 1 if drips else PART_BYTES
    with suppress(ConnectionError):
        for start in range(0, len(sent), step):
            part = sent[start : start + step]
            writer.write(part)
            await writer.drain()
            tally.bytes_sent += len(part)
            if drips:
                await asyncio.sleep(drips)


def main() -> None:
    """Attack once and print the tally as JSON."""
    parser = argparse.ArgumentParser(prog="bench.attackers", description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    key = sys.stdin.read().strip()
    tally = uvloop.run(attack(options.name, options.url, key, options.seconds))
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
