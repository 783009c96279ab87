"""A log of final answers (acks), on disk before they count, and the check that none was lost."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg

CHUNK = 5_000


class Ack(NamedTuple):
    """The version and state of a reservation as answered; for a refund, also the refund's id."""

    reservation: str
    version: int
    state: str
    refund: str | None = None


class AcknowledgedLog:
    """Appends each ack to a file, durably, and remembers the acks that were not checked yet."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.unchecked: list[Ack] = []
        self.latest: dict[str, Ack] = {}
        """The last ack of each reservation."""
        self.count = 0

    def add(self, ack: Ack) -> None:
        os.write(self._file, json.dumps(ack).encode() + b"\n")
        os.fsync(self._file)
        self.unchecked.append(ack)
        self.latest[ack.reservation] = ack
        self.count += 1

    def close(self) -> None:
        os.close(self._file)

    async def lost(self, url: str) -> list[Ack]:
        """The acks since the last call that are missing from the database."""
        connection = await asyncpg.connect(url)
        try:
            acks, self.unchecked = self.unchecked, []
            chunks = [acks[first : first + CHUNK] for first in range(0, len(acks), CHUNK)]
            return [ack for chunk in chunks for ack in await _lost(connection, chunk)]
        finally:
            await connection.close()

    async def contradicted(self, url: str) -> list[tuple[Ack, str]]:
        """Reservations whose state differs from their last ack; call it when no request runs.

        A hold may have expired since.
        """
        connection = await asyncpg.connect(url)
        states = {
            str(row["id"]): row["state"]
            for row in await connection.fetch("SELECT id, state FROM reservation")
        }
        await connection.close()
        return [
            (ack, states.get(id_, "missing"))
            for id_, ack in self.latest.items()
            if states.get(id_) != ack.state and (ack.state, states.get(id_)) != ("held", "expired")
        ]


LOST = """
    SELECT ack.n FROM unnest($1::int[], $2::uuid[], $3::int[], $4::text[], $5::uuid[])
        AS ack(n, id, version, state, refund)
    LEFT JOIN reservation ON reservation.id = ack.id
    WHERE reservation.id IS NULL
        OR reservation.version < ack.version
        OR ack.state <> 'rejected' AND NOT EXISTS (
            SELECT FROM movement
            WHERE reservation_id = ack.id AND reservation_version = ack.version)
        OR ack.refund IS NOT NULL AND NOT EXISTS (
            SELECT FROM refund WHERE reservation_id = ack.id AND id = ack.refund)
"""


async def _lost(connection: asyncpg.Connection, acks: Sequence[Ack]) -> list[Ack]:
    ids = [UUID(ack.reservation) for ack in acks]
    refunds = [UUID(ack.refund) if ack.refund else None for ack in acks]
    columns = [range(len(acks)), ids, [a.version for a in acks], [a.state for a in acks], refunds]
    return [acks[row["n"]] for row in await connection.fetch(LOST, *columns)]
