"""Splits JSON text one level at a time, without building a tree of all its values.

Four megabytes of JSON can contain two million values, and a tree of them takes fifty times as many
bytes. The parts that are not split are only skipped, in C, at about 5 ns a byte.
"""

import re

import msgspec

BOM = b"\xef\xbb\xbf"
DEPTH_MAX = 16
ITEMS_MAX = 10_000
HALVES_MAX = 10_000
BRACKETS_MAX = 20_000


class MalformedError(ValueError):
    """The text is not JSON or is nested too deep; the message describes a body."""


def checked(raw: bytes) -> bytes:
    """Return the text if it is JSON, with a NUL instead of each lone surrogate.

    A lone surrogate, half of a character, is not valid text. The NUL lets the rest be read, so that
    the error names the path of the value. Raises `MalformedError`.
    """
    try:
        return _checked(raw)
    except MalformedError:
        usable, halves = _without_halves(raw)
        if not halves:
            raise
        return _checked(usable)


def _checked(raw: bytes) -> bytes:
    try:
        raw.decode()
        msgspec.json.decode(raw, type=msgspec.Raw)
    except UnicodeDecodeError as error:
        raise MalformedError(f"is not UTF-8 (byte {error.start})") from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        if reason == "Input data was truncated":
            reason = "it is incomplete" if raw.strip() else "it is empty"
        raise MalformedError(f"is not JSON: {reason}") from None
    except RecursionError:
        raise MalformedError(TOO_DEEP) from None
    return raw


TOO_DEEP = f"is nested more than {DEPTH_MAX} deep"


def members_of(raw: bytes, most: int) -> list[tuple[str, bytes]]:
    """Return the members of an object, including repeated ones, with the text of their values.

    For an object with more than `most` members it returns the names of the first ones, each with
    the value `""`.
    """
    names: list[str] = []

    def take(_: type, name: str) -> _Name:
        names.append(name)
        if len(names) > most:
            raise _Enough
        return _Name()

    try:
        values = msgspec.json.decode(raw, type=dict[_Name, msgspec.Raw], dec_hook=take)
    except _Enough:
        return [(name, b'""') for name in names]
    return list(zip(names, map(bytes, values.values()), strict=True))


class _Name:
    """A member's name. Each is a separate key, so that a dict keeps repeated members."""


class _Enough(Exception):
    pass


def items_of(raw: bytes) -> list[bytes]:
    """Return the text of the items of a list, at most the first `ITEMS_MAX` + 1."""
    if raw.count(b",") <= ITEMS_MAX:
        return [bytes(item) for item in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    items = msgspec.structs.astuple(_first_items.decode(raw))
    return [bytes(item) for item in items if item is not None]


_Items = msgspec.defstruct(
    "Items",
    [(f"item_{n}", msgspec.Raw, None) for n in range(ITEMS_MAX + 1)],  # later items are skipped
    array_like=True,
    gc=False,
)
_first_items = msgspec.json.Decoder(_Items)


def count_members(raw: bytes) -> int:
    """Return the total number of members of all objects in a JSON text."""
    return _STRING.sub(b"", raw).count(b":")


def is_too_deep(raw: bytes) -> bool:
    """True when a JSON text is nested more than 16 deep.

    For a text with more lists and objects than any valid body the answer is False, unchecked.
    """
    if not DEPTH_MAX < raw.count(b"[") + raw.count(b"{") <= BRACKETS_MAX:
        return False
    if b"\\" in raw:
        raw = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = raw.translate(_AS_BRACKET, _NO_BRACKETS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", brackets)
    for _ in range(DEPTH_MAX):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_AS_BRACKET = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))


def _without_halves(raw: bytes) -> tuple[bytes, int]:
    r"""Replace the first thousands of lone surrogates, like \ud800, with NUL; count them."""
    raw = raw.replace(rb"\\", rb"\u005c")  # so that each remaining backslash begins an escape
    return _HALF.subn(rb"\\u0000", raw, count=HALVES_MAX)


_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
