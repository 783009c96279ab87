"""Imports: a file is checked as a whole, then carried out a part at a time.

Each part is a command like any other, in a transaction of its own, and between two parts others
have their turn. The job's record tells how many rows are done, so that an import that was
interrupted goes on where it stopped when it is sent again.
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

ROWS_AT_ONCE = 64  # as many lines as a batch has: others wait for a part as for each other
JOBS_MAX = 2  # at once in a worker
SLOT_SECONDS_MAX = 5.0  # for one of them to end
TROUBLE_SECONDS_MAX = 10.0  # for which a part is tried again before the client is told
PAUSE_SECONDS = 0.2  # between two tries


class Imports:
    """The imports of a worker."""

    def __init__(self, coalescer: Coalescer) -> None:
        self.coalescer = coalescer
        self.is_ending = False
        """The worker ends: an import stops after the part that is under way."""
        self._slots = asyncio.Semaphore(JOBS_MAX)

    async def run(self, source: str, job: str, raw: bytes) -> Outcome[ImportJob]:
        """Carry a file out, once for each job name, and return the job's record.

        Raises `InvalidRequest` that names the bad lines, before anything is written; `Overloaded`
        when too many imports are under way; `Unavailable` when it was interrupted.
        """
        async with self._slot():
            digest = hashlib.sha256(raw).hexdigest()
            nothing = ImportStock(source, job, digest, (), 0, await check(raw))
            return await self._carry_out(nothing, raw)

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

    async def _carry_out(self, nothing: ImportStock, raw: bytes) -> Outcome[ImportJob]:
        rows, place = rows_of(raw), 0
        while True:
            part = tuple(itertools.islice(rows, ROWS_AT_ONCE))
            outcome = await self._submit(replace(nothing, rows=part, first=place))
            if not isinstance(outcome, Done):
                return outcome
            if outcome.value.is_done:
                return outcome
            place += len(part)
            if outcome.value.rows_done != place:  # others were at it, too
                place = outcome.value.rows_done
                rows = await rows_from(raw, place)
            if self.is_ending:
                raise _interrupted(outcome.value)

    async def _submit(self, part: ImportStock) -> Outcome[ImportJob]:
        """Carry a part out; if that can't be done now, try again for a while."""
        give_up_at = time.monotonic() + TROUBLE_SECONDS_MAX
        while True:
            try:
                return (await self.coalescer.submit([part]))[0]
            except ServiceError as error:
                if not error.retryable or self.is_ending or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)


async def check(raw: bytes) -> int:
    """Return how many rows a file has. Raises `InvalidRequest` that names the bad lines."""
    pace = Pace()
    seen: set[int] = set()
    errors: list[Mapping[str, str]] = []
    for line, found in lines_of(raw):
        await pace.rest()
        wrong = found if isinstance(found, str) else None
        if not isinstance(found, str):
            # Not the keys themselves, which take three times the memory: of half a million rows two
            # have the same hash of 64 bits once in a hundred million files.
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
    """Return the rows of a file that was checked."""
    return (found for _, found in lines_of(raw) if not isinstance(found, str))


async def rows_from(raw: bytes, place: int) -> Iterator[Row]:
    """Return the rows of a file that was checked, from a place on."""
    pace = Pace()
    rows = rows_of(raw)
    for _ in range(place):
        next(rows)
        await pace.rest()
    return rows


def _interrupted(job: ImportJob) -> Unavailable:
    return Unavailable(
        f"The service is shutting down; {job.rows_done} of {job.rows_in_all} rows are done. Send"
        " the same import again: it goes on from there."
    )
