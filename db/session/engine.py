"""The engine: SQLAlchemy over our connections, and statements that bypass it.

SQLAlchemy composes the statements and runs those whose speed does not matter. BEGIN, COMMIT and the
statements of the ledger (`Statement`) go directly to the driver, at a fifth of the cost
(docs/decisions.md, 15).
"""

from collections.abc import Mapping
from typing import Any

import asyncpg
from sqlalchemy import NullPool, event, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_

from db.session.connector import Connector
from db.session.driver import Driver


def create_engine(connector: Connector) -> AsyncEngine:
    """Return an engine whose connections come from a connector; `db.session.pool` keeps them."""

    def connect() -> Any:
        driver = await_(connector.open())

        async def opened() -> Driver:
            return driver

        dialect: Any = engine.dialect
        if not driver.is_shared:
            return dialect.dbapi.connect(async_creator_fn=opened)
        return dialect.dbapi.connect(
            async_creator_fn=opened,
            prepared_statement_cache_size=0,  # each transaction may get another session
            prepared_statement_name_func=lambda: "",
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        creator=connect,
        isolation_level="AUTOCOMMIT",  # `Transaction` sends BEGIN and COMMIT
        poolclass=NullPool,
    )
    event.listen(engine.sync_engine, "connect", _commit)
    return engine


def _commit(raw: Any, _record: ConnectionPoolEntry) -> None:
    """End the transaction in which the session began and SQLAlchemy examined the server."""
    raw.run_async(lambda driver: driver.execute("COMMIT"))


class Statement:
    """A statement with `:named` parameters that bypasses SQLAlchemy and is prepared once."""

    def __init__(self, sql: str) -> None:
        self.text = sql
        compiled: Any = text(sql).compile(dialect=DIALECT)
        self._sent = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup)

    async def fetch(
        self, connection: AsyncConnection, parameters: Mapping[str, Any]
    ) -> list[asyncpg.Record]:
        """Run it on a connection and return its rows. Raises one of `FAILURES`."""
        values = [parameters[name] for name in self._names]
        return await driver_of(connection).run(self._sent, *values)


DIALECT: Any = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types here


def driver_of(connection: AsyncConnection) -> Driver:
    """Return the driver's connection beneath SQLAlchemy's."""
    checked_out: Any = connection.sync_connection
    driver: Driver = checked_out.connection.driver_connection
    return driver
