"""A database's address: its parameters have the meaning that they have for libpq.

The PG* variables supply the parts that the address omits, as with libpq.
"""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from db.session.address_text import ENCODE, AddressError, read_parameters, refuse, written

DRIVER_PARAMETERS = (
    "krbsrvname",
    "gsslib",
    "sslmode",
    "sslnegotiation",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
"""Parameters that the driver gets unchanged."""

OUR_PARAMETERS = (
    "user",
    "password",
    "passfile",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "options",
    "service",
    "servicefile",
    "target_session_attrs",
)
"""Parameters that this module and the connector handle."""

IGNORED_PARAMETERS = (
    "application_name",  # the service sets its own
    "fallback_application_name",
    "client_encoding",  # is always UTF8
    "connect_timeout",  # the service has its own timeouts
    "tcp_user_timeout",
    "keepalives",  # the service turns them on
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "load_balance_hosts",  # only one host accepts writes
    "sslcompression",
    "sslsni",
    "sslkeylogfile",
    "gssdelegation",
    "replication",
    "min_protocol_version",
    "max_protocol_version",
    "scram_client_key",
    "scram_server_key",
    "oauth_issuer",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_scope",
    "authtype",
    "tty",
)
"""Parameters that libpq knows and that the service does not need."""

UNENFORCED_PARAMETERS = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "require_auth": ("",),
    "requirepeer": ("",),
    "sslcertmode": ("disable", "allow"),
    "sslcrldir": ("",),
}
"""Parameters that the driver does not support, with the values that demand nothing. All
other values get a warning."""

KNOWN = frozenset(
    {*DRIVER_PARAMETERS, *OUR_PARAMETERS, *IGNORED_PARAMETERS, *UNENFORCED_PARAMETERS}
)

CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "primary"),
}

Host = tuple[str | None, int | None]
"""A host: its name, its address or a socket's directory, and a port; None is the default."""


@dataclass(frozen=True)
class Address:
    """The location of a database and the credentials for it."""

    parameters: Mapping[str, str] = field(repr=False)
    """libpq's keywords and their values; a list of hosts is one value with commas."""
    hosts: tuple[Host, ...] = field(repr=False)

    @property
    def needs_primary(self) -> bool:
        """True unless the address or PGTARGETSESSIONATTRS accepts any server."""
        return self.wanted_server != "any"

    @property
    def needs_writable(self) -> bool:
        """True when a server whose transactions are read-only by default is refused too."""
        return self.wanted_server == "read-write"

    @property
    def wanted_server(self) -> str:
        """The kind of server that is required: `any`, `primary` or `read-write`."""
        attribute = "target_session_attrs"
        return self.parameters.get(attribute) or _environment(attribute) or "read-write"

    @property
    def settings(self) -> dict[str, str]:
        """The settings that `options` or PGOPTIONS requests from the server."""
        return _read_options(self.parameters.get("options") or _environment("options") or "")

    @property
    def warnings(self) -> list[str]:
        """A sentence for each demand of the address that the driver can't fulfil."""
        return [
            f"The database's address asks for {name}={self.parameters[name]}, which is not"
            " enforced, because the driver does not support it. Protect the connection with"
            " sslmode=verify-full."
            for name, harmless in UNENFORCED_PARAMETERS.items()
            if self.parameters.get(name, "") not in {"", *harmless}
        ]

    def arguments(self, host: Host) -> dict[str, Any]:
        """Return the arguments with which `asyncpg.connect` connects to one of `hosts`."""
        name, port = host
        parameters = self.parameters
        for_driver = {
            key: parameters[key] for key in DRIVER_PARAMETERS if parameters.get(key, "") != ""
        }
        if has_system_roots := for_driver.get("sslrootcert") == "system":
            del for_driver["sslrootcert"]
            for_driver.pop("sslmode", None)
        return {
            "dsn": f"postgresql://?{urlencode(for_driver)}",
            "host": name,
            "port": port,
            "user": self._user(),
            "password": parameters.get("password"),
            "database": parameters.get("dbname"),
            "passfile": parameters.get("passfile"),
            "service": parameters.get("service") or os.environ.get("PGSERVICE"),
            "servicefile": parameters.get("servicefile"),
            "ssl": True if has_system_roots else None,
            "target_session_attrs": "any",  # the connector checks it after connecting
        }

    def named(self, database: str) -> str:
        """Return the address of another database on the same server, as keywords and values."""
        return written({**self.parameters, "dbname": database})

    def _user(self) -> str | None:
        """Return the user if the address or the environment determines it.

        Without a name, libpq and asyncpg take the name of the process's user. That user may have no
        name, as in a container that runs under an arbitrary user id.
        """
        if "user" in self.parameters:
            return self.parameters["user"]
        if "service" not in self.parameters and not os.environ.get("PGSERVICE"):
            try:
                return os.environ.get("PGUSER") or getpass.getuser()
            except (KeyError, OSError):
                raise AddressError(
                    "The database's address names no user, and the process's own user id has no"
                    " name: put the user into the address, as in postgresql://user@host/name."
                ) from None
        return None


def read_address(text: str) -> Address:
    """Read an address. Raises `AddressError`."""
    parameters, hint = read_parameters(text.strip())
    _check(parameters, hint)
    return Address(parameters, tuple(_hosts_of(parameters)))


def connection_arguments(text: str) -> dict[str, Any]:
    """Return the arguments with which `asyncpg.connect` finds a suitable host of an address.

    For tools that need their own session. Raises `AddressError`.
    """
    address = read_address(text)
    arguments = address.arguments(address.hosts[0])
    if len(address.hosts) > 1:
        arguments["host"] = [name or "localhost" for name, _ in address.hosts]
        arguments["port"] = [port or 5432 for _, port in address.hosts]
        arguments["target_session_attrs"] = address.wanted_server
    return arguments


def _check(parameters: dict[str, str], hint: str) -> None:
    """Refuse unknown parameters and values; replace `requiressl` by its successor `sslmode`."""
    requires_tls = parameters.pop("requiressl", "") == "1"
    if requires_tls:
        parameters.setdefault("sslmode", "require")
    if not parameters.keys() <= KNOWN:
        refuse("it has a parameter that PostgreSQL's clients don't know", hint)
    for name, choices in CHOICES.items():
        given = parameters.get(name) or _environment(name)
        if given and given not in choices:
            raise AddressError(
                f"The database's address has a {name} that is not one of {', '.join(choices)}:"
                " choose one of them in the address, or in"
                f" {_variable(name)} if it comes from there."
            )
    if "@" in parameters.get("host", ""):
        refuse("a host in it has an @", hint)


def _hosts_of(parameters: Mapping[str, str]) -> list[Host]:
    """Return the hosts in order, each with its port; a single port holds for all hosts.

    `hostaddr` saves the lookup of the name, but a certificate is checked against the name.
    """
    numbers, names = parameters.get("hostaddr", ""), parameters.get("host", "")
    hosts = (numbers if numbers and parameters.get("sslmode") != "verify-full" else names) or (
        numbers
    )
    each_host = hosts.split(",")
    each_port = parameters.get("port", "").split(",")
    if len(each_port) == 1:
        each_port *= len(each_host)
    if len(each_port) != len(each_host):
        refuse(f"it has {len(each_host)} hosts and {len(each_port)} ports", "")
    return [
        (host or None, _port(port) if port else None)
        for host, port in zip(each_host, each_port, strict=True)
    ]


def _port(port: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,5}\s*", port) or not 0 < int(port) < 65536:
        refuse("its port is not a number from 1 to 65535", ENCODE)
    return int(port)


OPTION = re.compile(r"\s*(?:-c\s*|--)(?P<name>[\w.-]+)=(?P<value>(?:[^\s\\]|\\.)*)(?=\s|$)")


def _read_options(options: str) -> dict[str, str]:
    """Read `-c name=value` and `--name=value`, as the server reads its command line."""
    settings, position, options = {}, 0, options.strip()
    while position < len(options):
        option = OPTION.match(options, position)
        if option is None:
            raise AddressError(
                "The options in the database's address, or in PGOPTIONS, can't be read: write them"
                " as -c name=value, with a backslash before a space in a value."
            )
        value = re.sub(r"\\(.)", r"\1", option["value"])
        settings[option["name"].replace("-", "_")] = value
        position = option.end()
    return settings


def _variable(name: str) -> str:
    return f"PG{name.replace('_', '').upper()}"


def _environment(name: str) -> str | None:
    return os.environ.get(_variable(name)) or None
