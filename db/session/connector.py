"""Opens sessions with PostgreSQL: chooses the host, detects poolers and applies the settings."""

import asyncio
from collections.abc import Mapping

import asyncpg
from asyncpg.exceptions import CannotConnectNowError, TargetServerAttributeNotMatched

from db.session.address import Address, Host
from db.session.address_text import AddressError
from db.session.configuration import (
    INTRODUCTION,
    RELIED_ON_SINCE,
    Timeouts,
    preamble_of,
    relied_on,
    settings_put,
)
from db.session.driver import Driver, Findings, examine
from db.session.failures import sqlstate

SETTINGS_REFUSED = ("08P01", "0A000")
"""SQLSTATEs with which poolers refuse settings that come with the request for a connection."""

ATTEMPTS_MAX = 3  # with a wrong assumption, with the right one, and once more if it changes


class Connector:
    """Connects to the first suitable host, within the timeout for connecting."""

    def __init__(self, address: Address, timeouts: Timeouts) -> None:
        self.address = address
        self._timeouts = timeouts
        self._wanted = {**relied_on(timeouts), **RELIED_ON_SINCE}
        self._at_start = {**INTRODUCTION, **address.settings, **relied_on(timeouts)}
        self._shared: set[Host] = set()
        """Hosts whose sessions are shared, because a pooler answers there."""
        self._refusing: set[Host] = set()
        """Hosts that refuse settings with the request for a connection."""

    @property
    def is_shared(self) -> bool:
        """True when a pooler was detected."""
        return bool(self._shared)

    async def open(self) -> Driver:
        """Return a connection in an open transaction, which the caller must commit.

        Its settings hold from then on; in a shared session each BEGIN sends them along. Raises one
        of `FAILURES`, or `AddressError`.
        """
        hosts = self.address.hosts
        for number, host in enumerate(hosts, start=1):
            try:
                async with asyncio.timeout(self._timeouts.connect / len(hosts)):
                    return await self._open_at(host)
            except (OSError, TimeoutError, TargetServerAttributeNotMatched, CannotConnectNowError):
                if number == len(hosts):
                    raise
        raise AssertionError("an address names at least one host")

    async def _open_at(self, host: Host) -> Driver:
        for _ in range(ATTEMPTS_MAX):
            as_shared = host in self._shared  # another connection may change that meanwhile
            driver = await self._connect(host, as_shared=as_shared)
            try:
                if await self._settle(driver, host, as_shared=as_shared):
                    return driver
                # Without a ROLLBACK a pooler closes its own connection to the server.
                await driver.execute("ROLLBACK")
                await driver.close()
            except BaseException:
                driver.terminate()
                raise
        raise OSError(
            "the address leads now to a pooler and now to PostgreSQL: let it lead to one of them"
        )

    async def _connect(self, host: Host, *, as_shared: bool) -> Driver:
        if host in self._refusing:
            return await self._dial(host, _name_only(self._at_start), as_shared)
        try:
            return await self._dial(host, self._at_start, as_shared)
        except asyncpg.PostgresError as error:
            if sqlstate(error) not in SETTINGS_REFUSED:
                raise
        driver = await self._dial(host, _name_only(self._at_start), as_shared)
        self._refusing.add(host)
        return driver

    async def _dial(self, host: Host, settings: Mapping[str, str], as_shared: bool) -> Driver:
        try:
            driver: Driver = await asyncpg.connect(
                **self.address.arguments(host),
                connection_class=Driver,
                server_settings=dict(settings),
                statement_cache_size=0 if as_shared else 100,
                max_cached_statement_lifetime=0,  # the statements are few and never change
                max_cacheable_statement_size=0,  # statements of any length are cached
            )
        except ValueError as error:  # the driver raises it before it connects
            raise AddressError(
                f"The database's address can't be used: {error}. Correct it in the address, or in"
                " the PG* variable or the service file that it comes from."
            ) from None
        return driver

    async def _settle(self, driver: Driver, host: Host, *, as_shared: bool) -> bool:
        """Apply the settings; False if `as_shared` turns out to be wrong."""
        await driver.execute("BEGIN")
        found = await examine(driver, self._wanted)
        self._judge(found)
        is_shared = self._is_shared(driver, found, host)
        (self._shared.add if is_shared else self._shared.discard)(host)
        if is_shared != as_shared:
            return False
        known = {name: value for name, value in self._wanted.items() if name in found.known}
        if is_shared:
            driver.preamble = preamble_of({**self.address.settings, **known})
            return True
        driver.history = found.history
        if found.different:
            await driver.execute(settings_put({**self.address.settings, **known}, for_session=True))
        return True

    def _judge(self, found: Findings) -> None:
        if found.is_standby and self.address.needs_primary:
            raise TargetServerAttributeNotMatched("the server is a standby")
        if found.is_read_only and self.address.needs_writable:
            raise TargetServerAttributeNotMatched(
                "the server's default_transaction_read_only is on"
            )

    def _is_shared(self, driver: Driver, found: Findings, host: Host) -> bool:
        """Return whether a pooler stands between us and PostgreSQL.

        A pooler answers before it has a backend for us, so it reports an invented process id; or it
        has accepted settings and not applied them.
        """
        if found.process_id != driver.get_server_pid():
            return True
        return host not in self._refusing and not found.different.isdisjoint(self._at_start)


def _name_only(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the only setting that every pooler accepts."""
    return {"application_name": settings["application_name"]}
