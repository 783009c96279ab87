"""The query string: each parameter is taken once, and a parameter that is left over is refused."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from service.domain.errors import InvalidRequest
from service.input.messages import near

T = TypeVar("T")

PARAMETERS_MAX = 20
SHOWN_MAX = 64
"""Characters of an unknown parameter's name that an error repeats."""


class Query:
    """The parameters of a query string. Raises `InvalidRequest` for one that is given twice."""

    def __init__(self, query_string: bytes) -> None:
        self._values: dict[str, str] = {}
        self._taken: list[str] = []
        pairs = query_string.split(b"&", PARAMETERS_MAX)
        if len(pairs) > PARAMETERS_MAX:
            raise InvalidRequest.at("query", f"has more than {PARAMETERS_MAX} parameters")
        for pair in filter(None, pairs):
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            try:
                key, text = unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise InvalidRequest.at("query", "is not UTF-8") from None
            if key in self._values:
                raise InvalidRequest.at(_shown(key), "is given twice")
            self._values[key] = text

    def take(self, name: str, read: Callable[[str, str], T]) -> T | None:
        """Return the value that `read` makes from a parameter's name and text; None if absent."""
        self._taken.append(name)
        text = self._values.pop(name, None)
        return None if text is None else read(name, text)

    def end(self) -> None:
        """Raise `InvalidRequest` for the first parameter that was not taken."""
        for name in self._values:
            meant = near(name, self._taken)
            hint = f"; did you mean {meant}?" if meant else ""
            raise InvalidRequest.at(_shown(name), f"is not a parameter here{hint}")


def _shown(name: str) -> str:
    if not name:
        return '""'
    return name if len(name) <= SHOWN_MAX else f"{name[:SHOWN_MAX]}…"
