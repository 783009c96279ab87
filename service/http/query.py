"""The query string: parameters, each taken once, and the cursors of lists."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

import msgspec

from service.domain.errors import InvalidRequest
from service.http.requests import HttpRequest
from service.input.bodies import CONTROL, NAME_MAX, VERSION_MAX
from service.input.messages import near
from service.input.names import name_at, path_name_at

PARAMETERS_MAX = 20
PARAMETER_NAME_MAX = 64  # characters of an unknown one that are told
MOMENT_MAX = 64
LIMIT_DEFAULT = 50
LIMIT_MAX = 500
CURSOR_MAX = 2_048
"""Characters; a SKU and a location of four bytes a character come to 1,450."""

# What a cursor is made of. PostgreSQL takes no other values, so no list has given any.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Ordinal = Annotated[int, msgspec.Meta(ge=1, le=VERSION_MAX)]
Step = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX, pattern=r"^[^\x00]*\Z")]


class Query:
    """The query string, each parameter taken once; what is left over is refused."""

    def __init__(self, request: HttpRequest) -> None:
        self._values: dict[str, str] = {}
        self._taken: list[str] = []
        pairs = request.scope["query_string"].split(b"&", PARAMETERS_MAX)
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

    def text(self, name: str, length_max: int = NAME_MAX) -> str | None:
        """Take a parameter that is any text without control characters."""
        self._taken.append(name)
        value = self._values.pop(name, None)
        if value is not None and len(value) > length_max:
            raise InvalidRequest.at(name, f"has more than {length_max:,} characters")
        if value is not None and re.search(f"[{CONTROL}]", value):
            raise InvalidRequest.at(name, "must not have control characters")
        return value

    def name(self, name: str) -> str | None:
        """Take a parameter that is a source or a seq."""
        value = self.text(name)
        return None if value is None else name_at(name, value)

    def place(self, name: str) -> str | None:
        """Take a parameter that is a SKU or a location."""
        value = self.text(name)
        return None if value is None else path_name_at(name, value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Take a parameter that is one of a few words."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise InvalidRequest.at(name, f"must be one of {', '.join(choices)}")
        return value

    def moment(self, name: str) -> datetime | None:
        """Take a moment in ISO 8601 with its offset from UTC."""
        value = self.text(name, MOMENT_MAX)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value.replace(" ", "+"))  # an offset's bare plus
            if moment.utcoffset() is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise InvalidRequest.at(name, "must be a moment like 2026-11-22T19:20:00Z")

    def limit(self) -> int:
        """Take the length of a page."""
        value = self.text("limit")
        if value is None:
            return LIMIT_DEFAULT
        if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= LIMIT_MAX:
            raise InvalidRequest.at("limit", f"must be a number from 1 to {LIMIT_MAX}")
        return int(value)

    def cursor(self, kind: Any) -> Any:
        """Take the cursor, made by `cursor_after` from a value of the type `kind`."""
        value = self.text("cursor", CURSOR_MAX)
        if value is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(value.encode("ascii") + b"=" * (-len(value) % 4))
            cursor = msgspec.json.decode(raw, type=kind, strict=True)
            if cursor_after(cursor) == value and not _has_offset(cursor):
                return cursor
        except (ValueError, binascii.Error, msgspec.MsgspecError):
            pass
        raise InvalidRequest.at(
            "cursor", "is none of this list: send the next_cursor of the page before as it is"
        )

    def end(self) -> None:
        """Raise `InvalidRequest` for the first parameter that was not taken."""
        for name in self._values:
            meant = near(name, self._taken)
            hint = f"; did you mean {meant}?" if meant else ""
            raise InvalidRequest.at(_shown(name), f"is not a parameter here{hint}")


def _shown(name: str) -> str:
    return name if len(name) <= PARAMETER_NAME_MAX else f"{name[:PARAMETER_NAME_MAX]}…"


def _has_offset(cursor: Any) -> bool:
    """True when a moment in a cursor is not in UTC, as all that a list has given are."""
    parts = cursor if isinstance(cursor, tuple) else (cursor,)
    return any(isinstance(part, datetime) and bool(part.utcoffset()) for part in parts)


def cursor_after(value: Any) -> str:
    """Return the cursor that continues after this place in a list's order."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()
