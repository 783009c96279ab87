"""The text of a database's address, a URI or keywords and values, becomes parameters of libpq.

Error messages name the mistake and never quote the address: a character that is not
percent-encoded can make a part of the password look like a port, a name or a parameter.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from db.session.failures import DatabaseError

PREFIX = re.compile(r"(?:postgresql|postgres)(?:\+\w+)?://")
"""SQLAlchemy's form, with the name of a driver after a plus, is accepted too."""

WHERE = "The database's address (DATABASE_URL or MIGRATE_DATABASE_URL) can't be read"
ENCODE = (
    "If the user or the password has one of / @ : ? # % [ ] or a space in it, percent-encode it:"
    " %2F for /, %40 for @, %25 for %."
)
QUOTE = "Write a value with spaces in single quotes, and write \\' for a quote in it."


class AddressError(DatabaseError):
    """An address can't be used; the message gives the reason and never quotes the address."""


def read_parameters(text: str) -> tuple[dict[str, str], str]:
    """Return the parameters in a text, and the hint about the way in which its values are quoted.

    Raises `AddressError`.
    """
    prefix = PREFIX.match(text)
    if prefix:
        return _read_uri(text[prefix.end() :]), ENCODE
    if "=" not in text or re.match(r"\w+:", text):
        refuse("it is neither postgresql://user:password@host:port/name nor host=… dbname=…", "")
    return _read_keywords(text), QUOTE


def refuse(mistake: str, hint: str) -> NoReturn:
    """Raise an `AddressError` with a mistake in the address and a hint."""
    raise AddressError(f"{WHERE}: {mistake}. {hint}".rstrip())


class _Uri(NamedTuple):
    """The pieces of a URI, still percent-encoded."""

    credentials: str
    hosts: str
    database: str
    query: str


def _split(rest: str) -> _Uri:
    """Split a URI as libpq does: a password ends at the first @ and contains no /."""
    authority, _, _ = rest.partition("/")
    credentials, _, target = rest.partition("@") if "@" in authority else ("", "", rest)
    address, _, query = target.partition("?")
    hosts, _, database = address.partition("/")
    return _Uri(credentials, hosts, database, query)


def _read_uri(rest: str) -> dict[str, str]:
    uri = _split(rest)
    if "@" in uri.hosts or "@" in uri.database:
        refuse("it has one @ too many", ENCODE)
    user, _, password = uri.credentials.partition(":")
    names, ports = _split_hosts(uri.hosts)
    found = {
        "user": _decode(user),
        "password": _decode(password),
        "host": ",".join(map(_decode, names)),
        "port": ",".join(map(_decode, ports)),
        "dbname": _decode(uri.database),
    }
    given = {name: value for name, value in found.items() if value.strip(",")}
    return given | _read_query(uri.query)


def _split_hosts(hosts: str) -> tuple[list[str], list[str]]:
    """Return names and ports, still encoded; an IPv6 address is in brackets."""
    names, ports = [], []
    for each in hosts.split(","):
        host = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]*))(?::(.*))?", each, re.DOTALL)
        if host is None:
            refuse("a host in it is not name:port or [address]:port", ENCODE)
        names.append(host[1] or host[2] or "")
        ports.append(host[3] or "")
    return names, ports


def _read_query(query: str) -> dict[str, str]:
    parameters = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals or "=" in value:
            refuse("a parameter after the ? is not name=value", ENCODE)
        name, value = _decode(name), _decode(value)
        if (name, value) == ("ssl", "true"):  # JDBC's form, which libpq accepts
            name, value = "sslmode", "require"
        parameters[name] = value
    return parameters


def _decode(piece: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", piece):
        refuse("a % in it is not followed by two hexadecimal digits", ENCODE)
    try:
        return unquote_to_bytes(piece).decode()
    except UnicodeDecodeError:
        refuse("a percent-encoded character in it is not UTF-8", ENCODE)


PAIR = re.compile(
    r"\s*(?P<name>[^\s=]+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<bare>(?:[^\s'\\]|\\.)"
    r"(?:[^\s\\]|\\.)*|))(?=\s|$)",
    re.DOTALL,
)


def _read_keywords(text: str) -> dict[str, str]:
    parameters, position = {}, 0
    while position < len(text):
        pair = PAIR.match(text, position)
        if pair is None:
            refuse("it is not a list of name=value", QUOTE)
        value = pair["bare"] if pair["quoted"] is None else pair["quoted"]
        parameters[pair["name"]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = pair.end()
    return parameters


def written(parameters: Mapping[str, str]) -> str:
    """Return parameters as keywords and values."""
    quoted = {name: re.sub(r"(['\\])", r"\\\1", value) for name, value in parameters.items()}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())
