"""How a session with PostgreSQL is begun: which host, whose session it is, and its settings."""

import asyncio
from collections.abc import Mapping

import asyncpg
from asyncpg.exceptions import CannotConnectNowError, TargetServerAttributeNotMatched

from db.session.address import Address, AddressError, Host
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
"""How poolers refuse settings that come with the request for a connection."""

ASKED_MAX = 3  # as what a session was, as what it is, and once more if that has changed


class Connector:
    """Connects to the first host that will do, within the time for connecting."""

    def __init__(self, address: Address, timeouts: Timeouts) -> None:
        self.address = address
        self._timeouts = timeouts
        self._wanted = {**relied_on(timeouts), **RELIED_ON_SINCE}
        self._at_start = {**INTRODUCTION, **address.settings, **relied_on(timeouts)}
        self._shared: set[Host] = set()
        """Where a session isn't ours alone."""
        self._refusing: set[Host] = set()
        """Where settings are refused that come with the request for a connection."""

    @property
    def is_shared(self) -> bool:
        """True when a pooler was met."""
        return bool(self._shared)

    async def open(self) -> Driver:
        """Return a connection in an open transaction, which is to be committed.

        Its settings are in force from then on, or come with each BEGIN. Raises one of `FAILURES`,
        or `AddressError`.
        """
        hosts = self.address.hosts
        for place, host in enumerate(hosts, start=1):
            try:
                async with asyncio.timeout(self._timeouts.connect / len(hosts)):
                    return await self._open_at(host)
            except (OSError, TimeoutError, TargetServerAttributeNotMatched, CannotConnectNowError):
                if place == len(hosts):
                    raise
        raise AssertionError("an address names at least one host")

    async def _open_at(self, host: Host) -> Driver:
        for _ in range(ASKED_MAX):
            as_shared = host in self._shared  # another connection may find out meanwhile
            driver = await self._connect(host, as_shared=as_shared)
            try:
                if await self._settle(driver, host, as_shared=as_shared):
                    return driver
                await driver.execute("ROLLBACK")  # a pooler would hang up on its server
                await driver.close()
            except BaseException:
                driver.terminate()
                raise
        raise OSError("the database is reached now through a pooler and now without")

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
                max_cached_statement_lifetime=0,  # statements are few and stay as they are
                max_cacheable_statement_size=0,  # of any length
            )
        except ValueError as error:  # which the driver raises before it connects
            raise AddressError(
                f"The database's address can't be used: {error}. Put it right in the address, or"
                " in the PG* variable or the service file that it comes from."
            ) from None
        return driver

    async def _settle(self, driver: Driver, host: Host, *, as_shared: bool) -> bool:
        """Put the settings in force; False if the session is not as it was taken for."""
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
            raise TargetServerAttributeNotMatched("its default_transaction_read_only is on")

    def _is_shared(self, driver: Driver, found: Findings, host: Host) -> bool:
        """Tell whether a pooler stands between us and PostgreSQL.

        It answers before it has a backend for us, so it makes a process id up; or it has accepted
        settings that are not in force.
        """
        if found.process_id != driver.get_server_pid():
            return True
        return host not in self._refusing and not found.different.isdisjoint(self._at_start)


def _name_only(settings: Mapping[str, str]) -> dict[str, str]:
    """The setting that every pooler takes."""
    return {"application_name": settings["application_name"]}
