"""Generates hostile bytes: valid inputs with a few changes, and inputs as long as the bound.

In the suite Hypothesis draws the same examples each time. `make fuzz` draws others.
"""

import os
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("HOLDFAST_TEST_FUZZ_EXAMPLES", "60"))
IS_LONGER = "HOLDFAST_TEST_FUZZ_EXAMPLES" in os.environ

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=not IS_LONGER,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
fuzzed_at_the_bound = settings(fuzzed, max_examples=max(5, EXAMPLES // 20))
"""For inputs that are as long as the bound."""

PIECES: tuple[bytes, ...] = (
    b"", b" ", b"\t", b"\r\n", b"\n", b"\x00", b"\x1b[31m", b"\x7f", b"\x85", b"\xff", b"\xc3",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u200b".encode(), "\u202e".encode(), "\u00a0".encode(),
    "\U0001f6d2".encode(), b'"', b"'", b"\\", b'\\"', b"\\u0000", b"\\ud800", b",", b";", b"=",
    b"&", b"+", b"%", b"%00", b"%0d%0a", b"%ff", b"%2e%2e", b"%2F", b"..", b"/", b":", b"*", b"-",
    b"0", b"-0", b"1.0", b"1e400", b"9" * 30, b"NaN", b"true", b"null", b"{", b"}", b"[", b"]",
    b"[[[[[[[[[[[[[[[[[", b"[[%b]]" % (b"1" * 5000), b"[" * 400 + b"]" * 400,
    b"W/", b"q=", b"q=0", b"<script>", b"${jndi:x}", b"A" * 300,
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A valid input after up to five changes."""
    raw = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 20)))
        match draw(st.sampled_from(["insert", "replace", "repeat", "cut", "flip", "splice"])):
            case "insert":
                raw = raw[:start] + draw(st.sampled_from(PIECES)) + raw[start:]
            case "replace":
                raw = raw[:start] + draw(st.sampled_from(PIECES)) + raw[end:]
            case "repeat":
                raw = raw[:end] + raw[start:end] * draw(st.integers(1, 30)) + raw[end:]
            case "cut":
                raw = raw[:start] + raw[end:]
            case "flip":
                raw = raw[:start] + draw(st.binary(max_size=3)) + raw[end:]
            case "splice":
                raw = raw[:start] + draw(st.sampled_from(seeds))[start:]
    return raw


@st.composite
def pumped(draw: st.DrawFn, seeds: Sequence[bytes], size: int) -> bytes:
    """A piece that repeats until the input has about that size, between parts of a valid one."""
    seed = draw(st.sampled_from(seeds))
    cut = draw(st.integers(0, len(seed)))
    unit = b"".join(draw(st.lists(st.sampled_from([*PIECES, *seeds]), min_size=1, max_size=3)))
    unit = unit or b"a"
    end = draw(st.sampled_from([seed[cut:], b"", b"\x00", b'"', b"\xff", b"!"]))
    return seed[:cut] + unit * max(1, size // len(unit)) + end
