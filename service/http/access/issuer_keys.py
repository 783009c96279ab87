"""The issuer's public keys, fetched from a file or an https URL and kept in memory.

A worker fetches them at its start and then hourly, so that a withdrawn key ends. A token with an
unknown key makes it fetch them at once, but such tokens do so once a minute at most. While the
issuer is unreachable, the known keys stay in use.
"""

import asyncio
import math
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import structlog

from service.domain.errors import Unavailable
from service.engine.outages import Outage
from service.http.access.key_set import IssuerKey, KeySet, KeySetError, read_key_set
from service.input.issuer import Issuer

log = structlog.get_logger()

INTERVAL_SECONDS = 3_600.0
RETRY_SECONDS = 60.0  # after a failure, while the keys of an earlier fetch are in use
FIRST_RETRY_SECONDS = 5.0  # after a failure, while no token can be verified
UNKNOWN_SECONDS = 60.0  # between two fetches for unknown keys
FETCH_SECONDS_MAX = 5.0
WAIT_SECONDS_MAX = 2.0  # of a request for a fetch: the command needs the rest of its time
SIZE_MAX = 256 * 1024

FETCH_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, KeySetError)


class IssuerKeys:
    """The issuer's keys in a worker, and the background service that renews them."""

    name = "issuer_keys"

    def __init__(self, issuer: Issuer, on_change: Callable[[], None]) -> None:
        self.issuer = issuer
        self._on_change = on_change
        self._keys: KeySet | None = None
        self._text = b""
        self._fetching: asyncio.Task[bool] | None = None
        self._fetched_for_unknown_at = -math.inf
        self._outage = Outage("issuer")

    async def run(self) -> None:
        """Fetch the keys now and then hourly, until cancelled."""
        while True:
            if await asyncio.shield(self._start_fetch()):
                seconds = INTERVAL_SECONDS
            else:
                seconds = FIRST_RETRY_SECONDS if self._keys is None else RETRY_SECONDS
            await asyncio.sleep(seconds)

    async def find(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        """Return the key for a token; None if the issuer has no such key. Raises `Unavailable`."""
        found = self._find(kid, algorithm)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                found = await self._find_fetched(kid, algorithm)
        except TimeoutError:
            raise Unavailable(
                "The keys of the token's issuer could not be fetched in time."
            ) from None
        if self._keys is None:
            raise Unavailable("The keys of the token's issuer could not be fetched.")
        return found

    def _find(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        return None if self._keys is None else self._keys.find(kid, algorithm)

    async def _find_fetched(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        """Await the fetch under way, which may be too old to know the key; then fetch again."""
        found = None
        if self._fetching is not None and not self._fetching.done():
            await asyncio.shield(self._fetching)
            found = self._find(kid, algorithm)
        if found is None and self._may_fetch_for_unknown():
            await asyncio.shield(self._start_fetch())
            found = self._find(kid, algorithm)
        return found

    def _may_fetch_for_unknown(self) -> bool:
        now = time.monotonic()
        if now - self._fetched_for_unknown_at < UNKNOWN_SECONDS:
            return False
        self._fetched_for_unknown_at = now
        return True

    def _start_fetch(self) -> asyncio.Task[bool]:
        """Fetch the keys; all that need them meanwhile share the fetch."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> bool:
        """Replace the keys by those that the issuer has now; False if it is unreachable."""
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX):
                text = await fetch(self.issuer.keys_at)
            keys = read_key_set(text)
        except FETCH_ERRORS as error:
            self._outage.begin(f"{type(error).__name__}: {error}")
            return False
        self._outage.end()
        if self._keys is None or text != self._text:
            log.info("issuer_keys_changed", usable=len(keys.keys), ignored=keys.ignored)
            self._keys, self._text = keys, text
            self._on_change()
        return True


def check_key_file(issuer: Issuer) -> None:
    """Raise `ValueError` if the issuer's keys are in a file that has no key to use."""
    if not isinstance(issuer.keys_at, Path):
        return
    try:
        keys = read_key_set(_read_file(issuer.keys_at)).keys
    except OSError as error:
        raise ValueError(f"jwt-jwks {issuer.keys_at} can't be read: {error.strerror}") from error
    except KeySetError as error:
        raise ValueError(f"jwt-jwks {issuer.keys_at} {error}") from None
    if not any(key.algorithm in issuer.algorithms for key in keys):
        raise ValueError(
            f"jwt-jwks {issuer.keys_at} has no key for {' or '.join(issuer.algorithms)}:"
            " an RSA key needs 2048 bits, an EC key the curve P-256, and no key its private part"
        )


async def fetch(keys_at: Path | str) -> bytes:
    """Return the text of the issuer's keys. Raises one of `FETCH_ERRORS`."""
    if isinstance(keys_at, Path):
        return await asyncio.to_thread(_read_file, keys_at)
    return await _download(keys_at)


def _read_file(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise KeySetError("is not a file")  # to open a pipe could take for ever
    with path.open("rb") as file:
        text = file.read(SIZE_MAX + 1)
    if len(text) > SIZE_MAX:
        raise KeySetError(f"has more than {SIZE_MAX // 1024} KiB")
    return text


async def _download(url: str) -> bytes:
    """Follow no redirect: the keys come from the URL that the operator has chosen."""
    text = bytearray()
    async with (
        httpx.AsyncClient(
            verify=await asyncio.to_thread(_tls_context),
            timeout=FETCH_SECONDS_MAX,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        ) as client,
        client.stream("GET", url) as answer,
    ):
        if answer.status_code != 200:
            raise KeySetError(f"was answered with the status {answer.status_code}")
        async for chunk in answer.aiter_raw():
            text += chunk
            if len(text) > SIZE_MAX:
                raise KeySetError(f"has more than {SIZE_MAX // 1024} KiB")
    return bytes(text)


def _tls_context() -> ssl.SSLContext:
    """Trust the authorities of SSL_CERT_FILE, or else of certifi, and those of this machine."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
