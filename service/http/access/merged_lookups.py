"""Look-ups that nothing vouches for yet, merged: a flood of them takes one connection at most.

A worker can't tell an unknown key from a guessed one, so each must be looked up. While a query is
under way, further digests wait and share the next query.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from db.session.database import Database, StoreUnavailable

R = TypeVar("R")

DIGESTS_MAX = 500
"""Digests in one query. Those that wait are bounded by the connections of a worker's clients."""
QUERY_SECONDS_MAX = 2.0


class MergedLookups(Generic[R]):
    """Look-ups of rows by their digests, in one query at a time."""

    def __init__(
        self,
        database: Database,
        find_each: Callable[[Any, Sequence[bytes]], Awaitable[dict[bytes, R]]],
    ) -> None:
        self.database = database
        self._find_each = find_each
        self._waiting: dict[bytes, asyncio.Future[R | None]] = {}
        self._queries: asyncio.Task[None] | None = None

    async def find(self, digest: bytes) -> R | None:
        """Return the row with that digest, or None. Raises `StoreUnavailable`."""
        found = self._waiting.get(digest)
        if found is None:
            found = self._waiting[digest] = asyncio.get_running_loop().create_future()
        if self._queries is None:
            self._queries = asyncio.create_task(self._run())
        return await asyncio.shield(found)

    async def _run(self) -> None:
        """Make one query after another until no digest waits."""
        try:
            while self._waiting:
                asked = dict(islice(self._waiting.items(), DIGESTS_MAX))
                for digest in asked:  # a later request for it gets a later answer
                    del self._waiting[digest]
                await self._query(asked)
        finally:
            self._queries = None

    async def _query(self, asked: dict[bytes, asyncio.Future[R | None]]) -> None:
        try:
            async with asyncio.timeout(QUERY_SECONDS_MAX):
                rows = await self.database.read(
                    lambda connection: self._find_each(connection, list(asked)), is_urgent=True
                )
        except Exception as error:  # noqa: BLE001 - the requests that wait raise it
            self._fail([*asked.values(), *self._waiting.values()], error)
            self._waiting.clear()
            return
        for digest, found in asked.items():
            found.set_result(rows.get(digest))

    @staticmethod
    def _fail(waiting: list[asyncio.Future[R | None]], error: Exception) -> None:
        """Fail all look-ups, also those that wait for the next query: it would fail as late."""
        for found in waiting:
            found.set_exception(
                error
                if isinstance(error, StoreUnavailable)
                else StoreUnavailable(f"a look-up failed: {error!r}")
            )
            found.exception()  # the requests may have given up
