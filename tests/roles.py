"""Which role a test connects as: the one that serves, unless it does what only others may.

The roles are those of the tests' own PostgreSQL; on another server the one given does everything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from db.embedded.roles import Addresses, Role

_SERVERS: dict[int, Addresses] = {}
"""The private servers that run, by their ports."""


@contextmanager
def known(addresses: Addresses) -> Iterator[None]:
    """Tell the roles of a server apart for as long as it runs."""
    _SERVERS[addresses.port] = addresses
    try:
        yield
    finally:
        del _SERVERS[addresses.port]


def as_role(url: str, role: Role) -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    addresses = _SERVERS.get(parts.port or 0)
    return url if addresses is None else addresses.address_of(role, parts.path[1:])


def as_superuser(url: str) -> str:
    """The same database for a test that breaks or watches what no role of ours may."""
    return as_role(url, Role.SUPERUSER)


def authorization_clause(url: str) -> str:
    """What makes a new schema the migrating role's, where there is one."""
    return "" if not owner_clause(url) else f"AUTHORIZATION {Role.MIGRATING}"


def owner_clause(url: str) -> str:
    """What makes a new database the migrating role's, where there is one."""
    return "" if urlsplit(url).port not in _SERVERS else f"OWNER {Role.MIGRATING}"
