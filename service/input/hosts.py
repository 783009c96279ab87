"""The host names under which a service may be asked, as the header Host tells them.

A page of another site can give its own name the address of this service (DNS rebinding). Its
requests then have that name in Host.
"""

import re
from ipaddress import IPv6Address

HOST_BYTES_MAX = 300
"""Bytes of Host that are read: a name has at most 253, and a port at most five."""

_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")
_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*"
                   r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")  # fmt: skip


class AllowedHosts:
    """The host names that requests may name."""

    def __init__(self, text: str = "") -> None:
        """Read names that commas divide. Raises `ValueError` with the remedy."""
        self.names: set[str] = set()
        self.suffixes: tuple[str, ...] = ()
        """The ends of names, like `.example.com`, that stand for all names below it."""
        for each in text.lower().split(","):
            if name := _name(each.strip()):
                if name.startswith("*."):
                    self.suffixes += (name[1:],)
                else:
                    self.names.add(name)

    def __bool__(self) -> bool:
        """True when some names are not allowed."""
        return bool(self.names or self.suffixes)

    def allows(self, host: bytes) -> bool:
        """True when this value of the header Host is allowed; its port and case do not count."""
        found = _HOST.fullmatch(host.lower()) if len(host) <= HOST_BYTES_MAX else None
        if found is None:
            return False
        name = found[1].decode()
        if name.startswith("["):
            return _ipv6(name[1:-1]) in self.names
        name = name.removesuffix(".")  # the end of a name that is written in full
        return name in self.names or (
            name.endswith(self.suffixes) and not name.startswith(".") and ".." not in name
        )


def _name(text: str) -> str:
    """A name of the setting in the form in which names are compared; empty for an empty item."""
    plain = text.removeprefix("[").removesuffix("]")
    if ":" in plain and (address := _ipv6(plain)):
        return address
    if not text or _NAME.fullmatch(text):
        return text
    raise ValueError(
        f"allowed-hosts has {text!r}, which is not a host name: write names without scheme and"
        " port, for example shop.example.com, *.example.com, 10.0.0.7 or ::1"
    )


def _ipv6(text: str) -> str | None:
    """An IPv6 address in its usual form; None for any other text."""
    try:
        return str(IPv6Address(text))
    except ValueError:
        return None
