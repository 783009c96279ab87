"""Plays docs/api.md: sends the requests of the page in their order to a real service.

`python -m tests.api_page` writes the answers and the generated tables into the page again.
tests/test_api_page.py compares the page with the text that this command would write.

A request is a fenced block of the kind `http`; the block right after it is its answer. Timestamps
are shifted to the page's own clock, which advances in steps of five minutes, so that each run
writes the same page. A cursor contains a timestamp and is shifted too. Keys and their ids are
random: the page shows invented ones in their place.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from service.domain.errors import ServiceError, all_errors

PAGE = Path(__file__).parent.parent / "docs" / "api.md"

EXAMPLE = re.compile(
    r"```http\n(?P<request>[A-Z]+ /.*?)```\n(\n```http\n(?P<answer>HTTP/.*?)```\n)?"
    r"|<!-- The deadline of (?P<overdue>\S+) passes\. -->\n",
    re.DOTALL,
)
"""A request and its answer, or the comment by which the deadline of a hold passes at once."""

OVERDUE = "UPDATE reservation SET expires_at = clock_timestamp() WHERE seq = $1"

TABLE = re.compile(r"(<!-- (\w+): written by tests/api_page.py -->\n\n)(?:\|.*\n)*")

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
CURSOR = re.compile(r'(?<="next_cursor": ")[\w-]+')
KEY = re.compile(r'"key": "(hf_[\w-]{43})"')
KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
"""A random id; all others on the page are derived."""

BEGINNING = datetime(2026, 11, 22, 19, 5, 0, 123456, tzinfo=UTC)
STEP = timedelta(minutes=5)

SHOWN_HEADERS = (
    "Content-Type",
    "ETag",
    "Location",
    "Idempotency-Replayed",
    "Retry-After",
    "WWW-Authenticate",
    "Allow",
)
WIDTH = 98
LENGTH_MAX = 3_000
"""The longest body that the page shows, in characters; a longer body becomes an ellipsis."""


@dataclass
class Exchange:
    """A request of the page and the answer that a service gave."""

    request: httpx.Request
    response: httpx.Response


@dataclass
class Clock:
    """Translates timestamps, cursors, keys and ids between the service and the page."""

    began_at: datetime | None = None
    given: dict[str, str] = field(default_factory=dict)
    """The cursor, key or id that the service returned, for each one on the page."""

    def told(self, text: str) -> str:
        """Return a text of the service with the timestamps, cursors, keys and ids of the page."""
        for number, key in enumerate(KEY.findall(text), sum("hf_" in told for told in self.given)):
            self.given |= {f"hf_key{number}-": key[:8]}
            text = text.replace(key, f"hf_key{number}-…")
        for id_ in KEY_ID.findall(text):
            if id_ not in self.given.values():
                self.given[f"0f4f2b1c-6a1e-4f43-9a53-{len(self.given):012}"] = id_
        for told, given in self.given.items():
            text = text.replace(given, told)
        return CURSOR.sub(self._cursor_told, MOMENT.sub(self._moment_told, text))

    def meant(self, text: str) -> str:
        """Return a text of the page with the timestamps, cursors and ids of the service."""
        for told, given in self.given.items():
            text = text.replace(told, given)
        return MOMENT.sub(self._moment_meant, text)

    def _moment_told(self, found: re.Match[str]) -> str:
        moment = datetime.fromisoformat(found[0])
        self.began_at = self.began_at or moment
        passed = (moment - self.began_at) // STEP * STEP
        return (BEGINNING + passed).isoformat().replace("+00:00", "Z")

    def _moment_meant(self, found: re.Match[str]) -> str:
        began_at = self.began_at or datetime.now(UTC)
        moment = began_at + (datetime.fromisoformat(found[0]) - BEGINNING)
        return moment.isoformat().replace("+00:00", "Z")

    def _cursor_told(self, found: re.Match[str]) -> str:
        padded = found[0] + "=" * (-len(found[0]) % 4)
        decoded = base64.urlsafe_b64decode(padded).decode()
        told = base64.urlsafe_b64encode(MOMENT.sub(self._moment_told, decoded).encode())
        self.given[told.rstrip(b"=").decode()] = found[0]
        return told.rstrip(b"=").decode()


async def play(page: str, service: Any) -> AsyncIterator[tuple[re.Match[str], Exchange, str]]:
    """Send the page's requests in their order; yield each with its answer as the page shows it."""
    clock = Clock()
    keys = {
        "$KEY": await service.key("shop-eu", "reserve", "stock", "read"),
        "$READ_KEY": await service.key("shop-eu", "read"),
        "$ADMIN_KEY": await service.key("admin", "admin"),
    }
    for example in EXAMPLE.finditer(page):
        if example["overdue"]:
            await service.sql(OVERDUE, example["overdue"])
            continue
        request = request_of(service.client, clock.meant(example["request"]), keys)
        request.headers.setdefault("X-Request-Id", id_for(example["request"]))
        response = await service.client.send(request)
        yield example, Exchange(request, response), clock.told(answer_of(response))


def request_of(
    client: httpx.AsyncClient, text: str, keys: dict[str, dict[str, str]]
) -> httpx.Request:
    """Make the request that a block describes; the block may omit the key and the media type."""
    head, _, body = text.rstrip("\n").partition("\n\n")
    first, *lines = head.split("\n")
    method, _, address = first.partition(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    name = headers.get("Authorization", "Bearer $KEY").removeprefix("Bearer ")
    headers |= keys.get(name, {})
    if body:
        headers.setdefault("Content-Type", "application/json")
    return client.build_request(method, address, headers=headers, content=body or None)


def id_for(text: str) -> str:
    """Return an id for the request that a block describes: the same one in each run."""
    return f"b7ad6b7169203331-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def answer_of(response: httpx.Response) -> str:
    """Return an answer as a block shows it."""
    status = HTTPStatus(response.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [
        f"{name}: {response.headers[name].partition(';')[0]}"
        for name in SHOWN_HEADERS
        if name in response.headers
    ]
    if response.content:
        lines += ["", shown_body(response)]
    return "\n".join(lines) + "\n"


def shown_body(response: httpx.Response) -> str:
    if "json" in response.headers["Content-Type"] and len(response.text) <= LENGTH_MAX:
        return filled(response.json())
    return "…"


def filled(value: Any, indent: int = 0, taken: int = 0) -> str:
    """Return JSON with as many items on a line as fit.

    `taken` is the number of characters that the first line has already.
    """
    on_one_line = json.dumps(value, ensure_ascii=False)
    if indent + taken + len(on_one_line) <= WIDTH or not isinstance(value, dict | list):
        return on_one_line
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    lines, room = [opening], WIDTH - indent - taken - 3
    for number, piece in enumerate(pieces_of(value, indent + 1)):
        is_first = number == 0
        if is_first or ("\n" not in piece + lines[-1] and len(lines[-1]) + len(piece) <= room):
            lines[-1] += ("" if is_first else ", ") + piece
        else:
            lines[-1] += ","
            lines.append(f" {piece}")
            room = WIDTH - indent - 3
    return f"\n{' ' * indent}".join(lines) + closing


def pieces_of(value: dict[str, Any] | list[Any], indent: int) -> Iterator[str]:
    if isinstance(value, list):
        yield from (filled(item, indent) for item in value)
    else:
        for name, item in value.items():
            yield f'"{name}": {filled(item, indent, len(name) + 4)}'


async def written(page: str, service: Any) -> str:
    """Return the page with the current answers of a service and the current tables."""
    parts, end = [], 0
    async for example, _, answer in play(page, service):
        parts += [page[end : example.start()], f"```http\n{example['request']}```\n"]
        parts += ["\n", f"```http\n{answer}```\n"]
        end = example.end()
    document = (await service.client.get("/schema/openapi.json")).json()
    tables = {"operations": operations_table(document), "errors": errors_table()}
    return TABLE.sub(lambda found: found[1] + tables[found[2]], "".join([*parts, page[end:]]))


def operations_table(document: dict[str, Any]) -> str:
    rows = ["| operation | request | scope | summary |", "|---|---|---|---|"]
    for path, methods in document["paths"].items():
        for method, operation in sorted(methods.items()):
            scope = re.search(r"scope `(\w+)`", operation["description"])
            rows.append(
                f"| `{operation['operationId']}` | `{method.upper()} {path}` |"
                f" {f'`{scope[1]}`' if scope else 'open'} | {operation['summary']} |"
            )
    return "\n".join(rows) + "\n"


def errors_table() -> str:
    rows = [
        "| status | code | meaning | `retryable` | `same_seq` | what to do |",
        "|---|---|---|---|---|---|",
    ]
    rows += [error_row(error) for error in all_errors()]
    return "\n".join(rows) + "\n"


def error_row(error: type[ServiceError]) -> str:
    return (
        f"| {error.status} | `{error.code}` | {error.title()}. | {yes_or_no(error.retryable)} |"
        f" {yes_or_no(error.same_seq)} | {error.advice} |"
    )


def yes_or_no(value: object) -> str:
    return "yes" if value else "**no**"


@asynccontextmanager
async def fresh_service() -> AsyncIterator[Any]:
    """A service with its own database and no sweeper: only a request of the page expires a hold."""
    from db.embedded.server import EmbeddedPostgres  # noqa: PLC0415 - only the command needs it
    from tests.conftest import (  # noqa: PLC0415 - pytest's own module, and only for the command
        fresh_database,
        make_template,
        running_service,
    )
    from tests.roles import known  # noqa: PLC0415 - as above

    with (
        TemporaryDirectory(prefix="holdfast-page-") as directory,
        EmbeddedPostgres(Path(directory, "postgres")) as postgres,
        known(postgres.addresses),
    ):
        Path(directory).chmod(0o755)  # as root, PostgreSQL runs as another user
        await make_template(postgres.url)
        async with fresh_database(postgres.url) as url, running_service(url, sweeps=False) as found:
            yield found


async def main() -> None:
    """Write the answers and tables into the page again."""
    async with fresh_service() as service:
        page = await written(PAGE.read_text(encoding="utf-8"), service)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
