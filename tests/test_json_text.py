"""Splitting JSON text gives the same values as parsing all of it."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from service.input.json_text import MalformedError, checked, is_too_deep, items_of, members_of
from tests.json_texts import json_texts


def depth_of(value):
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0) if isinstance(value, dict | list) else 0


@given(json_texts())
@settings(max_examples=300, deadline=None)
def test_a_text_is_split_into_its_members_and_items(raw):
    assert checked(raw) == raw
    value = json.loads(raw)
    if isinstance(value, dict):
        pairs = json.loads(raw, object_pairs_hook=list)
        found = members_of(raw.strip(), len(pairs))
        assert [name for name, _ in found] == [name for name, _ in pairs]
        assert [json.loads(text, object_pairs_hook=list) for _, text in found] == [
            member for _, member in pairs
        ]
        assert len(members_of(raw.strip(), 1)) <= 2
    elif isinstance(value, list):
        assert [json.loads(text) for text in items_of(raw.strip())] == value


@given(st.integers(0, 30), json_texts(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_depth_is_counted_outside_of_strings(more, raw, is_list):
    opens, closes = (b"[", b"]") if is_list else (b'{"\\"]":', b"}")
    raw = opens * more + raw + closes * more
    assert is_too_deep(raw) == (depth_of(json.loads(raw)) > 16)


@given(json_texts(), st.integers(0, 100), st.binary(max_size=2))
@settings(max_examples=300, deadline=None)
def test_text_that_is_not_json_is_malformed(raw, position, more):
    broken = raw[:position] + more + raw[position:]
    try:
        json.loads(broken.decode(), parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        is_json = False
    else:
        is_json = True
    try:
        checked(broken)
    except MalformedError:
        assert not is_json or b"\xef\xbb\xbf" in broken
    else:
        assert is_json
