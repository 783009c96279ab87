"""The access log in memory, and the background service that writes it.

To note an entry costs the request an append to a dictionary. The entries are written twice a
second, many in one statement. While the database is unreachable they are kept, and written later.

The rows of a minute are bounded, and nothing is lost silently: beyond the bound equal uses of a
minute are merged into one counted row, and beyond that all others into one row without an address.
"""

import asyncio
import itertools
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID, uuid4, uuid5

import structlog

from db.queries import access_log
from db.session.database import Database, DatabaseError, Transaction
from service.engine.outages import Outage

log = structlog.get_logger()

INTERVAL_SECONDS = 0.5
ROWS_A_MINUTE_MAX = 1_000
"""Rows of a service in a minute, divided among its workers."""
MERGED_ROWS = 4
"""Rows of a minute that stand for all that has no row of its own: uses, and each refusal status."""
PENDING_MAX = 10_000
"""Entries that a worker keeps while the database is unreachable; then it only counts."""
WRITTEN_MAX = 1_000  # entries in a statement
DELETED_MAX = 1_000  # rows in a round
DELETE_SECONDS = 3_600.0  # between two searches for rows that are too old
FLUSH_SECONDS_MAX = 2.0  # at shutdown

NAMESPACE = UUID("5b0c9c3e-5c3f-4f0c-8d55-0f6d1c0f7a55")
"""Counted entries derive their ids from it, so that all workers add to the same row."""


class Access(NamedTuple):
    """A request as the access log tells it, without its time and its id."""

    key_id: UUID | None
    source: str | None
    address: str | None
    method: str | None
    route: str | None
    """The template of the path; never the path, which may name a SKU."""
    status: int | None


UNNAMED_USES = Access(None, None, None, None, None, None)
"""Uses of admin keys that have no row of their own."""


class Identity(NamedTuple):
    """Requests with the same identity are counted together."""

    minute: int
    is_refusal: bool
    access: Access


@dataclass(slots=True)
class Counted:
    """Equal requests of a minute: the time of the first, and their number."""

    at: float
    count: int = 0


class Minute:
    """The rows that a worker has used in a minute, and those that it may still use.

    Uses and refusals each have a quarter that the other can't take: a flood of refusals must not
    hide the uses of admin keys.
    """

    def __init__(self, number: int, rows_max: int) -> None:
        self.number = number
        self._rows_max = max(rows_max - MERGED_ROWS, 0)
        self._rows = {False: 0, True: 0}
        """The rows used: by uses, and by refusals."""
        self._seen: set[Identity] = set()

    def takes_single(self) -> bool:
        """Take a row for one use, unless only rows for merged uses are left."""
        if self._left(is_refusal=False) <= self._rows_max // 8:
            return False
        self._rows[False] += 1
        return True

    def takes_counted(self, identity: Identity) -> bool:
        """Take a row for equal requests, unless they have one or no row is left."""
        if identity in self._seen:
            return True
        if self._left(is_refusal=identity.is_refusal) <= 0:
            return False
        self._seen.add(identity)
        self._rows[identity.is_refusal] += 1
        return True

    def _left(self, *, is_refusal: bool) -> int:
        kept_free = max(self._rows_max // 4, self._rows[not is_refusal])
        return self._rows_max - kept_free - self._rows[is_refusal]


class AccessLog:
    """The background service that writes the access log, and the entries that it still has."""

    name = "access_log"

    def __init__(self, database: Database, *, workers: int = 1) -> None:
        self.database = database
        self._rows_max = ROWS_A_MINUTE_MAX // workers
        self._minute = Minute(0, self._rows_max)
        self._singles: list[access_log.Entry] = []
        self._counted: dict[Identity, Counted] = {}
        self._writing: asyncio.Task[None] | None = None
        self._full_since: int | None = None
        """The minute in which `PENDING_MAX` was reached."""

    def note_use(self, access: Access, request_id: str | None) -> None:
        """Note a use of an admin key."""
        now = time.time()
        minute = self._minute_at(now)
        if not self._is_full and minute.takes_single():
            at = datetime.fromtimestamp(now, UTC)
            entry = access_log.Entry(uuid4(), at, *access, request_id, 1, is_counted=False)
            self._singles.append(entry)
        else:
            self._count(now, Identity(minute.number, False, access))

    def note_refusal(self, access: Access) -> None:
        """Note a request that was refused."""
        now = time.time()
        self._count(now, Identity(self._minute_at(now).number, True, access))

    async def run(self) -> None:
        """Write and delete until cancelled; after a failed round, try again."""
        outage, loop = Outage("access_log"), asyncio.get_running_loop()
        deletes_at = loop.time()
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.flush()
                if loop.time() >= deletes_at and await self._delete_old() < DELETED_MAX:
                    deletes_at = loop.time() + DELETE_SECONDS
            except DatabaseError as error:
                outage.begin(error)
            else:
                outage.end()

    async def flush(self) -> None:
        """Write the noted entries, up to `WRITTEN_MAX`. Raises `DatabaseError`.

        A cancelled caller does not cancel a write: its entries could be counted twice.
        """
        for _ in range(2):  # a write may be under way: the entries noted since follow it
            if self._writing is None:
                if not self._pending:
                    return
                self._writing = asyncio.create_task(self._write())
            await asyncio.shield(self._writing)

    async def write_all(self) -> None:
        """Write all entries, at the end of the worker; log how many could not be written."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS_MAX):
                while self._pending or self._writing is not None:
                    await self.flush()
        except (DatabaseError, TimeoutError) as error:
            log.warning("access_log_not_written", entries=self._pending, error=str(error))

    @property
    def _pending(self) -> int:
        return len(self._singles) + len(self._counted)

    @property
    def _is_full(self) -> bool:
        return self._pending >= PENDING_MAX

    def _minute_at(self, now: float) -> Minute:
        number = int(now // 60)
        if number != self._minute.number:
            self._minute = Minute(number, self._rows_max)
        return self._minute

    def _count(self, now: float, identity: Identity) -> None:
        if identity not in self._counted:
            if self._is_full or not self._minute.takes_counted(identity):
                identity = self._merged(identity)
            self._counted.setdefault(identity, Counted(now))
        self._counted[identity].count += 1

    def _merged(self, identity: Identity) -> Identity:
        """The identity of all requests without a row; a full worker keeps it over minutes."""
        access = UNNAMED_USES
        if identity.is_refusal:
            access = access._replace(status=identity.access.status)
        minute = identity.minute
        if self._is_full:
            minute = self._full_since = self._full_since or minute
        return Identity(minute, identity.is_refusal, access)

    async def _write(self) -> None:
        singles, self._singles = self._singles[:WRITTEN_MAX], self._singles[WRITTEN_MAX:]
        identities = list(self._counted)[: WRITTEN_MAX - len(singles)]
        counted = {identity: self._counted.pop(identity) for identity in identities}
        rows = singles + sorted(itertools.starmap(_entry, counted.items()))

        async def work(transaction: Transaction) -> None:
            await access_log.write(transaction.connection, rows)

        try:
            await self.database.transact(work, is_read=True)
        except BaseException:
            self._put_back(singles, counted)
            raise
        finally:
            self._writing = None
        self._full_since = None

    def _put_back(self, singles: list[access_log.Entry], counted: dict[Identity, Counted]) -> None:
        self._singles = singles + self._singles
        for identity, before in counted.items():
            later = self._counted.get(identity)
            count = before.count + (later.count if later else 0)
            self._counted[identity] = Counted(before.at, count)

    async def _delete_old(self) -> int:
        async def work(transaction: Transaction) -> int:
            return await access_log.delete_old(transaction.connection, DELETED_MAX)

        return await self.database.transact(work, is_read=True)


def _entry(identity: Identity, counted: Counted) -> access_log.Entry:
    id_ = uuid5(NAMESPACE, repr((identity.minute, identity.is_refusal, *map(str, identity.access))))
    at = datetime.fromtimestamp(counted.at, UTC)
    return access_log.Entry(id_, at, *identity.access, None, counted.count, is_counted=True)
