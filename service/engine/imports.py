"""Imports: a file is checked as a whole, then carried out one part at a time.

Each part is a command like any other, with its own transaction, and other requests have their turn
between two parts. The job's record stores how many rows are done. So when an import was interrupted
and is sent again, it continues where it stopped.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from db.rows import ImportJob
from service.domain.commands import Done, ImportStock, Outcome
from service.domain.errors import ERRORS_MAX, InvalidRequest, Overloaded, ServiceError, Unavailable
from service.engine.coalescer import Coalescer
from service.input.import_file import Row, lines_of
from service.input.pace import Pace

ROWS_AT_ONCE = 64  # a full batch: a part delays other requests no longer than a batch of them
JOBS_MAX = 2  # at once, in each worker
SLOT_SECONDS_MAX = 5.0  # to wait until one of them ends
RETRY_SECONDS_MAX = 10.0  # during which a failed part is retried before the client is told
PAUSE_SECONDS = 0.2  # between two attempts


class Imports:
    """Carries out the imports that reach a worker."""

    def __init__(self, coalescer: Coalescer) -> None:
        self.coalescer = coalescer
        self.is_ending = False
        """True when the worker shuts down: an import then stops after its current part."""
        self._slots = asyncio.Semaphore(JOBS_MAX)

    async def run(self, source: str, job: str, raw: bytes) -> Outcome[ImportJob]:
        """Import a file, once for each job name, and return the job's record.

        Raises `InvalidRequest` with the bad lines, before anything is written; `Overloaded` when
        too many imports are under way; `Unavailable` when the import was interrupted.
        """
        async with self._slot():
            digest = hashlib.sha256(raw).hexdigest()
            without_rows = ImportStock(source, job, digest, (), 0, await check(raw))
            return await self._carry_out(without_rows, raw)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SLOT_SECONDS_MAX):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded("Too many imports are under way.") from None
        try:
            yield
        finally:
            self._slots.release()

    async def _carry_out(self, without_rows: ImportStock, raw: bytes) -> Outcome[ImportJob]:
        rows, rows_done = rows_of(raw), 0
        while True:
            part = tuple(itertools.islice(rows, ROWS_AT_ONCE))
            outcome = await self._submit(replace(without_rows, rows=part, first=rows_done))
            if not isinstance(outcome, Done):
                return outcome
            if outcome.value.is_done:
                return outcome
            rows_done += len(part)
            if outcome.value.rows_done != rows_done:  # the same import is under way elsewhere
                rows_done = outcome.value.rows_done
                rows = await rows_after(raw, rows_done)
            if self.is_ending:
                raise _interrupted(outcome.value)

    async def _submit(self, part: ImportStock) -> Outcome[ImportJob]:
        """Submit a part; if it fails for a reason that passes, try again for a while."""
        give_up_at = time.monotonic() + RETRY_SECONDS_MAX
        while True:
            try:
                return (await self.coalescer.submit([part]))[0]
            except ServiceError as error:
                if not error.retryable or self.is_ending or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)


async def check(raw: bytes) -> int:
    """Return the number of rows in a file. Raises `InvalidRequest` with the bad lines."""
    pace = Pace()
    seen: set[int] = set()
    errors: list[Mapping[str, str]] = []
    for line, found in lines_of(raw):
        await pace.rest()
        wrong = found if isinstance(found, str) else None
        if not isinstance(found, str):
            # The keys themselves would take three times the memory. Two of half a million rows have
            # the same hash of 64 bits once in a hundred million files.
            key = hash(found[:2])
            wrong = "this sku and location stand on an earlier line" if key in seen else None
            seen.add(key)
        if wrong is None:
            continue
        if len(errors) == ERRORS_MAX:
            raise InvalidRequest.of(errors, truncated=True)
        errors.append({"path": f"line {line}", "message": wrong})
    if errors:
        raise InvalidRequest.of(errors)
    if not seen:
        raise InvalidRequest.at("body", "has no rows to import")
    return len(seen)


def rows_of(raw: bytes) -> Iterator[Row]:
    """Return the rows of a file that `check` has accepted."""
    return (found for _, found in lines_of(raw) if not isinstance(found, str))


async def rows_after(raw: bytes, rows_done: int) -> Iterator[Row]:
    """Return the rows of a file that `check` has accepted, without the first `rows_done`."""
    pace = Pace()
    rows = rows_of(raw)
    for _ in range(rows_done):
        next(rows)
        await pace.rest()
    return rows


def _interrupted(job: ImportJob) -> Unavailable:
    return Unavailable(
        f"The service is shutting down; {job.rows_done} of {job.rows_in_all} rows are done. Send"
        " the same import again: it goes on from there."
    )
