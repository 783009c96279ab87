"""Everything is killed with -9 under load; whatever was answered with 201 must still be there."""

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import assert_books_balance
from tests.server import Server, running_server

KILLS = 5
CLIENTS = 16
SECONDS_MAX = 30.0


def family_of(pid: int) -> list[int]:
    """A process and all that it has started, the youngest last."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(status.parent.name)] = int(fields[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def kill_all(pids: list[int]) -> None:
    """Kill with -9 and wait until none is left but as a zombie."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    give_up_at = time.monotonic() + SECONDS_MAX
    while any(is_running(pid) for pid in pids) and time.monotonic() < give_up_at:
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def reserve_until(
    over: asyncio.Event, server: Server, client: int, acknowledged: set[str]
) -> None:
    """Reserve one unit after another; note each seq once it was answered with 201."""
    async with httpx.AsyncClient(
        base_url=server.url, headers=server.headers, timeout=SECONDS_MAX
    ) as http:
        for number in itertools.count():
            if over.is_set():
                return
            seq = f"{os.urandom(4).hex()}-{client}-{number}"
            body = {"seq": seq, "lines": [{"sku": "A", "quantity": 1}]}
            try:
                response = await http.post("/v1/reservations", json=body)
            except httpx.HTTPError:
                return
            if response.status_code == 201:
                acknowledged.add(seq)


async def load_then_kill(server: Server, acknowledged: set[str], victims: list[int]) -> None:
    enough = len(acknowledged) + 200
    over = asyncio.Event()
    clients = [
        asyncio.create_task(reserve_until(over, server, client, acknowledged))
        for client in range(CLIENTS)
    ]
    async with asyncio.timeout(SECONDS_MAX):
        while len(acknowledged) < enough:
            await asyncio.sleep(0.005)
    await asyncio.to_thread(kill_all, victims)
    over.set()
    await asyncio.wait_for(asyncio.gather(*clients), SECONDS_MAX)


def stored(server: Server) -> set[str]:
    """The seq of every reservation there is."""
    found: set[str] = set()
    cursor: str | None = ""
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as http:
        while cursor is not None:
            parameters = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
            page = http.get("/v1/reservations", params=parameters).json()
            found |= {item["seq"] for item in page["items"]}
            cursor = page["next_cursor"]
    return found


@pytest.mark.parametrize("who", ["everything", "postgresql", "a worker", "the supervisor"])
def test_after_kill_9_under_load_every_acknowledged_reservation_is_there(who, tmp_path):
    tmp_path.chmod(0o755)
    acknowledged: set[str] = set()
    for round_ in range(KILLS if who == "everything" else 2):
        with running_server(None, workers=2, data_dir=tmp_path / "data") as server:
            if round_ == 0:
                httpx.put(
                    f"{server.url}/v1/stock/A/main",
                    json={"available": 10_000_000},
                    headers=server.headers | {"If-None-Match": "*"},
                ).raise_for_status()
            assert acknowledged <= stored(server)
            family = family_of(server.process.pid)
            postgres = [pid for pid in family if is_postgres(pid)]
            victims = {
                "everything": family,
                "postgresql": postgres,
                "a worker": [pid for pid in family[1:] if pid not in postgres][:1],
                "the supervisor": family[:1],
            }[who]
            asyncio.run(load_then_kill(server, acknowledged, victims))
            if who in ("postgresql", "a worker"):
                await_service(server)
                assert acknowledged <= stored(server)
    with running_server(None, data_dir=tmp_path / "data") as server:
        assert acknowledged <= stored(server)
        url = (tmp_path / "data" / "database.url").read_text().strip()
        asyncio.run(assert_books_balance(url))


def is_postgres(pid: int) -> bool:
    return "postgres" in Path(f"/proc/{pid}/comm").read_text()


def await_service(server: Server) -> None:
    """Wait until the service has recovered by itself; 503 and lost connections until then."""
    give_up_at = time.monotonic() + SECONDS_MAX
    with httpx.Client(base_url=server.url, timeout=15) as http:
        while time.monotonic() < give_up_at:
            try:
                if http.get("/health/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
    raise AssertionError("the service did not recover")
