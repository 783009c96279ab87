"""The database role of each connection in the tests.

Tests connect as the serving role. They use another role only for a statement that the serving role
may not execute. The roles exist in the tests' own PostgreSQL. On the server that
HOLDFAST_TEST_DATABASE_URL names, every connection has the role in that address.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from db.embedded.roles import Addresses, Role

_SERVERS: dict[int, Addresses] = {}
"""The running private servers by port."""


@contextmanager
def known(addresses: Addresses) -> Iterator[None]:
    """Register the roles of a server while it runs."""
    _SERVERS[addresses.port] = addresses
    try:
        yield
    finally:
        del _SERVERS[addresses.port]


def as_role(url: str, role: Role) -> str:
    """The address of the same database for another role."""
    parts = urlsplit(url)
    addresses = _SERVERS.get(parts.port or 0)
    return url if addresses is None else addresses.address_of(role, parts.path[1:])


def as_superuser(url: str) -> str:
    """The address for a test that breaks or watches a server, which only the superuser may do."""
    return as_role(url, Role.SUPERUSER)


def authorization_clause(url: str) -> str:
    """The clause that makes the migrating role the owner of a new schema; empty without roles."""
    return "" if not owner_clause(url) else f"AUTHORIZATION {Role.MIGRATING}"


def owner_clause(url: str) -> str:
    """The clause that makes the migrating role the owner of a new database; empty without roles."""
    return "" if urlsplit(url).port not in _SERVERS else f"OWNER {Role.MIGRATING}"
