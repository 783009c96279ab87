"""Load from wrk, which hardly takes the processor from what is measured."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
local number = 0
request = function()
  number = number + 1
  return wrk.format(nil, nil, nil, '{{"seq":"{prefix}-' .. number
    .. '","lines":[{{"sku":"S' .. math.random({skus}) .. '","quantity":1}}]}}')
end
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one round gave: answers per second, latencies in milliseconds, answers not 2xx."""

    requests_per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    refused: int


def check_wrk() -> None:
    """Raise `SystemExit` with what to do when wrk is missing."""
    if shutil.which("wrk") is None:
        raise SystemExit("bench needs wrk: apt-get install wrk")


def load(url: str, *, key: str, prefix: str, skus: int, connections: int, seconds: int) -> Measured:
    """Send reservations with new seqs for some seconds and return what came back."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "load.lua"
        script.write_text(SCRIPT.format(key=key, prefix=prefix, skus=skus))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        printed = subprocess.run(  # noqa: S603 - our own command line
            [*command, "-s", str(script), f"{url}/v1/reservations"],
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + 30,
        ).stdout
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    return Measured(
        requests_per_second=float(_find(r"Requests/sec:\s+([\d.]+)", printed)),
        p50_milliseconds=_milliseconds(_find(r"(?m)^\s+50%\s+(\S+)", printed)),
        p99_milliseconds=_milliseconds(_find(r"(?m)^\s+99%\s+(\S+)", printed)),
        refused=int(refused[1]) if refused else 0,
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
