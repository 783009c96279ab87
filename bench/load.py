"""Load from wrk, which takes little CPU from the measured service."""

import re
import shutil
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

SKUS_MAX = 100_000  # in the stand's stock, and in the script's table of popularity

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
local skus, zipf, lines, batch = {skus}, {zipf}, {lines}, {batch}
local number = 0
math.randomseed({seed})

-- Popularity is 1 / rank ^ zipf. The sums are computed once; a binary search finds the rank.
local cumulated = {{}}
if zipf > 0 then
  local sum = 0
  for rank = 1, skus do
    sum = sum + 1 / rank ^ zipf
    cumulated[rank] = sum
  end
end

local function sku()
  if zipf == 0 then return math.random(skus) end
  local wanted, low, high = math.random() * cumulated[skus], 1, skus
  while low < high do
    local middle = math.floor((low + high) / 2)
    if cumulated[middle] < wanted then low = middle + 1 else high = middle end
  end
  return low
end

local function order(serial, more)
  local first, parts = sku(), {{}}
  for line = 1, lines do
    parts[line] = '{{"sku":"{sku}' .. (first + line - 2) % skus + 1 .. '","quantity":1}}'
  end
  return '{{"seq":"{prefix}-' .. serial .. '"' .. more
    .. ',"lines":[' .. table.concat(parts, ",") .. ']}}'
end

local function id(serial)
  return string.format("{uuid}-%04x-4000-8000-%012x", serial % 65536, serial)
end

function one()
  number = number + 1
  return wrk.format(nil, nil, nil, order(number, ""))
end

function holds()
  number = number + 1
  return wrk.format(nil, nil, nil, order(number, ',"hold_seconds":900'))
end

-- Every request is sent twice, so that half of them are replays.
function replayed()
  number = number + 0.5
  local serial = math.ceil(number)
  math.randomseed(serial)
  return wrk.format(nil, nil, nil, order(serial, ""))
end

-- Hold, confirm, refund. A step is sent long after the previous step, which is answered by then.
local LATER = 1000
function cycle()
  number = number + 1
  local serial, step = math.floor(number / 3), number % 3
  local before = serial - step * LATER
  if step == 0 or before < 1 then
    local more = ',"hold_seconds":900,"id":"' .. id(step == 0 and serial or number + 1e9) .. '"'
    return wrk.format(nil, nil, nil, order(number, more))
  end
  local address = "/v1/reservations/" .. id(before)
  if step == 1 then return wrk.format(nil, address .. "/confirm", nil, "") end
  return wrk.format(nil, address .. "/refunds", nil, '{{"seq":"{prefix}-r' .. before .. '"}}')
end

function many()
  local orders = {{}}
  for index = 1, batch do
    number = number + 1
    orders[index] = order(number, "")
  end
  return wrk.format(nil, "/v1/reservations/batch", nil,
    '{{"reservations":[' .. table.concat(orders, ",") .. ']}}')
end

request = {request}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The kind of requests, the number of SKUs and the number of connections."""

    request: str = "one"
    """`one`: a reservation; `holds`: one with a deadline; `replayed`: each reservation twice;
    `cycle`: hold, confirm, refund; `many`: a batch."""
    skus: int = 1
    zipf: float = 0.0
    lines: int = 1
    batch: int = 1
    """Reservations in a request."""
    connections: int = 64
    sku: str = "S"
    """The beginning of the SKUs' names; `T` is sold out."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one round: the rate, latencies and numbers of answers."""

    requests_per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    refused: int
    """Answers that were not 2xx."""
    failed: int
    """Requests without an answer."""
    answered: int
    """The number of answers of any status."""


def check_wrk() -> None:
    """Raise `SystemExit` with the remedy if wrk is missing."""
    if shutil.which("wrk") is None:
        raise SystemExit("the benchmark needs wrk: apt-get install wrk")


def load(url: str, *, key: str, prefix: str, sent: Load, seconds: int) -> Measured:
    """Send requests with new seqs for some seconds and return the figures."""
    script_text = SCRIPT.format(
        key=key,
        prefix=prefix,
        uuid=f"{abs(hash(prefix)) % 16**8:08x}",
        seed=zlib.crc32(prefix.encode()),  # so that each round has other SKUs
        request=sent.request,
        skus=sent.skus,
        zipf=sent.zipf,
        lines=sent.lines,
        batch=sent.batch,
        sku=sent.sku,
    )
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "load.lua"
        script.write_text(script_text)
        command = ["wrk", "-t1", f"-c{sent.connections}", f"-d{seconds}s", "--latency"]
        printed = subprocess.run(  # noqa: S603 - our own command line
            [*command, "--timeout", "10s", "-s", str(script), f"{url}/v1/reservations"],
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        ).stdout
    return _measured(printed)


def _measured(printed: str) -> Measured:
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed
    )
    return Measured(
        requests_per_second=float(_find(r"Requests/sec:\s+([\d.]+)", printed)),
        p50_milliseconds=_milliseconds(_find(r"(?m)^\s+50%\s+(\S+)", printed)),
        p99_milliseconds=_milliseconds(_find(r"(?m)^\s+99%\s+(\S+)", printed)),
        refused=int(refused[1]) if refused else 0,
        failed=sum(map(int, errors.groups())) if errors else 0,
        answered=int(_find(r"(\d+) requests in", printed)),
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk printed nothing like {pattern}:\n{text}")
    return found[1]


def _milliseconds(text: str) -> float:
    for unit, factor in (("us", 0.001), ("ms", 1.0), ("s", 1000.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise RuntimeError(f"wrk printed a latency of {text}")
