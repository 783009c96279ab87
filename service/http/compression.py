"""Compress responses with gzip for clients that accept it."""

import asyncio
import gzip
import re
from collections.abc import Iterable

COMPRESSED_FROM = 1024  # bytes: a shorter body fits into one packet anyway
IN_A_THREAD_FROM = 64 * 1024  # bytes, which take half a millisecond; zlib releases the GIL
LEVEL = 1  # takes a fifth of the default level's time; JSON still shrinks to an eighth
CODINGS_MAX = 16  # codings of Accept-Encoding that are read

VARY = (b"vary", b"accept-encoding")
GZIP = (b"content-encoding", b"gzip")

_REFUSED = re.compile(rb"q=0(?:\.0*)?")


def accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """True when the client names gzip, or anything, with a weight above 0 (RFC 9110, 12.5.3)."""
    accepted = {}
    for name, value in headers:
        if name == b"accept-encoding":
            for item in value.lower().split(b",", CODINGS_MAX)[:CODINGS_MAX]:
                coding, _, weight = item.partition(b";")
                accepted[coding.strip()] = not _REFUSED.fullmatch(weight.strip())
    return accepted.get(b"gzip", accepted.get(b"*", False))


async def compress(body: bytes) -> bytes:
    """Return the body as gzip; a long body is compressed in a thread."""
    if len(body) < IN_A_THREAD_FROM:
        return gzip.compress(body, LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, LEVEL, mtime=0)
