"""Messages about wrong values, in plain English. Each message follows the path of the value."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.input import bodies

CONTROL_CHARACTER = re.compile(f"[{bodies.CONTROL}]")
EDGE = re.compile(f"[{bodies.AT_NO_BEGINNING}]")

NEAR = 0.5
"""The least similarity of a misspelt name: `qty` and `quantity` have 0.55."""

NEAR_LENGTH_MAX = 64
"""Characters. A longer name is not a misspelling, and to compare it takes quadratic time."""

MISSING = "is missing"
UNKNOWN = "is not a known member"
UUID = "must be a UUID, like 8b1c7f9e-2f64-4a52-9d3b-6a4f6f1e7c11, in quotes"

WORDS = {
    "missing": MISSING,
    "string_type": "must be text, in quotes",
    "string_too_long": "has more than {max_length:,} characters",
    "int_type": "must be a whole number, without quotes, fraction or exponent",
    "greater_than_equal": "must be at least {ge:,}",
    "less_than_equal": "must be at most {le:,}",
    "list_type": "must be a list",
    "too_long": "has more than {max_length:,} items",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "uuid_type": UUID,
    "uuid_parsing": UUID,
    "bool_type": "must be true or false",
    "enum": "must be one of {expected}",
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}
"""Messages by pydantic's type of error. `_message` handles empty values and characters."""


def message_of(error: ValidationError) -> str:
    """Return the message about a single value."""
    return _message(_details(error)[0])


def messages_of(error: ValidationError) -> Iterable[tuple[tuple[int | str, ...], str]]:
    """Return the location of each error in a value, with its message."""
    for item in _details(error):
        message = _message(item)
        if item["loc"][-1:] == ("[key]",):  # pydantic's mark for an error in the name of a member
            yield item["loc"][:-2], f"has a member whose name {message}"
        else:
            yield item["loc"], message


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False)


def _message(item: ErrorDetails) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    if kind == "too_long" and context["field_type"] == "Dictionary":
        return f"has more than {context['max_length']:,} members"
    if kind == "string_pattern_mismatch":
        return _wrong_text(item["input"])
    return WORDS[kind].format(**context) if kind in WORDS else f"is refused: {item['msg']}"


def _wrong_text(text: str) -> str:
    """Describe a control character anywhere, or a space or invisible character at an end."""
    for character in text:
        if CONTROL_CHARACTER.match(character):
            return f"must not contain the control character {_code_point(character)}"
    verb, character = ("begin", text[0]) if EDGE.match(text[0]) else ("end", text[-1])
    shown = "a space" if character == " " else f"the invisible {_code_point(character)}"
    return f"must not {verb} with {shown}"


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X}"


def unknown_member(meant: str | None, known: Iterable[str]) -> str:
    """Return the message about a member that is not among the `known` ones."""
    if meant is not None:
        return f"{UNKNOWN}; did you mean {meant}?"
    names = [*known]
    if not names:
        return f"{UNKNOWN}; there are no members"
    return f"{UNKNOWN}; known: {', '.join(names)}"


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name; None when no name is similar."""
    if len(name) > NEAR_LENGTH_MAX:
        return None
    return next(iter(get_close_matches(name.lower(), known, n=1, cutoff=NEAR)), None)


def joined(names: Iterable[str]) -> str:
    """Return two or more names as text: a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}"
