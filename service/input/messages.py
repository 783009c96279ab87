"""What is wrong with a value, in our words: each message goes on after the value's path."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.input import bodies

CONTROL = re.compile(f"[{bodies.CONTROL}]")
EDGE = re.compile(f"[{bodies.AT_NO_BEGINNING}]")

NEAR = 0.5
"""How alike two names must be for one to be a slip of the other: `qty` is 0.55 of `quantity`."""

NEAR_LENGTH_MAX = 64
"""Characters; longer names are nobody's slip, and comparing takes the square of the length."""

MISSING = "is missing"
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
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}
"""By pydantic's type of error; empty values and wrong characters are below."""


def message_of(error: ValidationError) -> str:
    """Return what is wrong with a single value."""
    return _message(_details(error)[0])


def told(error: ValidationError) -> Iterable[tuple[tuple[int | str, ...], str]]:
    """Return each place in a value that is wrong, and what is wrong there."""
    for item in _details(error):
        message = _message(item)
        if item["loc"][-1:] == ("[key]",):  # how pydantic says that the name of a member is meant
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
    """What no text may have anywhere, or else what no name may begin or end with."""
    for character in text:
        if CONTROL.match(character):
            return f"must not have the control character {_code_point(character)}"
    place, character = ("begin", text[0]) if EDGE.match(text[0]) else ("end", text[-1])
    shown = "a space" if character == " " else f"{_code_point(character)}, which can't be seen"
    return f"must not {place} with {shown}"


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X}"


def unknown_member(meant: str | None, known: Iterable[str]) -> str:
    """Return what is wrong with a member that is not among the `known` ones."""
    if meant is not None:
        return f"is not a member here; did you mean {meant}?"
    return f"is not a member here: there {listed(known)}"


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None when none is near."""
    if len(name) > NEAR_LENGTH_MAX:
        return None
    return next(iter(get_close_matches(name.lower(), known, n=1, cutoff=NEAR)), None)


def listed(names: Iterable[str]) -> str:
    """Return what goes on after "there": are the names, is the only one, is none."""
    *others, last = [*names] or ["none"]
    return f"are {', '.join(others)} and {last}" if others else f"is {last}"
