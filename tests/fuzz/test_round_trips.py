"""Values that are written and read again stay the same, and few other texts are accepted."""

import csv
import io
import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.domain.errors import InvalidRequest, UnsupportedMediaType
from service.domain.stock import AVAILABLE_MAX
from service.http.compression import accepts_gzip
from service.http.page.sessions import is_own_origin
from service.http.reading import cursors
from service.http.reading.parameters import LIMIT, MOMENT
from service.http.reading.query import Query
from service.http.request_id import request_id_of
from service.input import headers, names
from service.input.import_file import COLUMNS, lines_of
from service.input.parsing import parse
from tests.fuzz.mutations import fuzzed, mutated
from tests.fuzz.parsers import (
    BODIES,
    CSV,
    PARSERS,
    PROXIES,
    QUERIES,
    SESSION,
    TOKEN,
    form,
    outcome,
    seeds_of,
    stock_name,
)

# Names


INVISIBLE = set(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u3164\ufeff\uffa0"
    + "".join(map(chr, [*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F)]))
    + "".join(map(chr, [*range(0x2060, 0x2070), *range(0xFFF9, 0xFFFC)]))
)
VARIATIONS = set(map(chr, range(0xFE00, 0xFE10)))


def is_name(text):
    """The rule for a name, one character after the other."""
    if not 1 <= len(text) <= 128 or any(unicodedata.category(each) == "Cc" for each in text):
        return False
    ends = [text[0], text[-1]]
    return not any(each.isspace() or each in INVISIBLE for each in ends) and (
        text[0] not in VARIATIONS
    )


odd = st.sampled_from([*INVISIBLE, *VARIATIONS, *' \t\n\x00\x85\u00a0\u2028.%/"\\,;=&+ü\U0001f6d2'])
characters = odd | st.characters(codec="utf-8")
texts = st.text(characters, max_size=8) | st.builds("".join, st.lists(odd, max_size=130))
printable = st.characters(codec="utf-8", exclude_categories=["Cc"]) | odd.filter(str.isprintable)
ends = st.sampled_from('aZ9.%/+~"ü\U0001f6d2')
good_names = ends | st.builds("{}{}{}".format, ends, st.text(printable, max_size=8), ends)
path_names = good_names.filter(lambda name: name not in (".", ".."))


@given(texts)
@fuzzed
def test_a_name_is_accepted_by_the_same_rule_as_in_plain_python(text):
    for read, is_right in (
        (names.name_at, is_name(text)),
        (names.path_name_at, is_name(text) and text not in (".", "..")),
    ):
        try:
            assert read("sku", text) == text
            assert is_right
        except InvalidRequest:
            assert not is_right


def test_each_character_is_allowed_at_the_ends_of_a_name_or_within_by_the_same_rule():
    for character in map(chr, [*range(0xD800), *range(0xE000, 0x10000), *range(0xE0000, 0xE0200)]):
        for text in (f"{character}a", f"a{character}", f"a{character}a"):
            found = outcome(PARSERS["a name"], text.encode())
            assert (found == text) == is_name(text), f"U+{ord(character):04X}"


@given(path_names)
@fuzzed
def test_a_name_in_a_path_is_the_name_that_was_quoted(name):
    assert stock_name(quote(name, safe="").encode()) == name


# Headers


ows = st.sampled_from(["", " ", "  \t"])
cases = st.sampled_from([str.lower, str.upper, str.title])
weights = st.sampled_from(["0", "0.", "0.0", "0.000", "0.001", "0.5", "1", "1.000"])
RANGES = ["application/json", "application/*", "*/*", "text/html", "text/*", "application/xml"]


@st.composite
def weighed(draw, kinds, more_parameters=()):
    """Kinds with their weights, and the list in a header that means them."""
    chosen = draw(st.lists(st.sampled_from(kinds), unique=True, max_size=6))
    found, items = {}, []
    for kind in chosen:
        parts = [draw(cases)(kind)]
        parts += (
            draw(st.lists(st.sampled_from(more_parameters), max_size=2)) if more_parameters else []
        )
        found[kind] = 1.0
        if draw(st.booleans()):
            weight = draw(weights)
            found[kind] = float(weight)
            parts.append(draw(cases)(f"q={weight}"))
        items.append(draw(ows) + (draw(ows) + ";" + draw(ows)).join(parts) + draw(ows))
    return found, ",".join(items).encode()


@given(weighed(RANGES, ["level=1", "charset=utf-8", 'a="b"']))
@fuzzed
def test_the_weight_of_json_is_that_of_the_most_specific_range(accept):
    found, raw = accept
    of_ranges = [found[each] for each in RANGES[:3] if each in found]
    assert headers.quality(raw, "application/json") == (of_ranges[0] if of_ranges else 0.0)


@given(weighed(["gzip", "br", "deflate", "identity", "*"]))
@fuzzed
def test_gzip_is_used_only_with_a_weight_above_0(accept):
    found, raw = accept
    assert accepts_gzip([(b"accept-encoding", raw)]) == (found.get("gzip", found.get("*", 0)) > 0)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=128).filter(is_name))
@fuzzed
def test_a_quoted_key_is_the_key_that_was_quoted(key):
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert headers.idempotency_key(quoted.encode()) == key


@given(good_names.filter(lambda name: not name.startswith('"')))
@fuzzed
def test_a_bare_key_is_read_as_it_is(key):
    assert headers.idempotency_key(key.encode()) == key


@given(
    st.integers(1, 10**19 - 1), st.sampled_from(["", "W/"]), st.sampled_from(["", " ", ", ", " ,"])
)
@fuzzed
def test_a_version_is_that_of_the_etag(version, weak, more):
    assert headers.version("If-Match", f'{more}{weak}"{version}"{more}'.encode()) == version


etags = st.builds(
    lambda weak, text: f'{weak}"{text}"',
    st.sampled_from(["", "W/"]),
    st.sampled_from(["27", "2", "7", ",27,", ", W/", "x,27"]) | st.text("27,W/ *", max_size=5),
)


@given(st.lists(etags, min_size=1, max_size=6), ows)
@fuzzed
def test_an_etag_matches_if_it_is_in_the_list(tags, space):
    expected = any(tag.removeprefix("W/") == '"27"' for tag in tags)
    assert headers.matches(f"{space},{space}".join(tags).encode(), b'"27"') == expected


cookie_names = st.sampled_from(["holdfast", "xholdfast", "holdfastx", "__Host-holdfast", "a"])
cookie_values = st.text("abcXYZ019-_", min_size=1, max_size=8)


@given(st.lists(st.tuples(cookie_names, cookie_values), max_size=5), ows)
@fuzzed
def test_a_cookie_is_the_first_one_of_its_name(jar, space):
    sent = f";{space}".join(f"{name}={value}" for name, value in jar).encode()
    for name in ("holdfast", "__Host-holdfast"):
        found = [value for each, value in jar if each == name]
        expected = found[0].encode() if found else None
        assert headers.cookie(sent, name.encode()) == expected


@given(
    st.sampled_from(["application/json", "text/csv", "text/plain", "application/jsonp"]),
    st.sampled_from([None, "utf-8", '"UTF-8"', "utf8", "latin-1", '"utf-16"']),
    st.lists(st.sampled_from(["a=b", "header=present", 'x="y"']), max_size=3),
    cases,
    ows,
)
@fuzzed
def test_a_media_type_is_accepted_if_it_is_the_expected_one_in_utf_8(
    kind, charset, more, case, space
):
    parts = [case(kind), *more, *([f"charset={charset}"] if charset else [])]
    raw = f"{space};{space}".join(parts).encode()
    is_right = kind == "application/json" and charset not in ("latin-1", '"utf-16"')
    try:
        headers.check_media_type(raw, "application/json")
        assert is_right
    except UnsupportedMediaType:
        assert not is_right


hosts = st.sampled_from(
    ["shop.example", "shop.example:8000", "evil.example", "[::1]:8000", "shop", ""]
)


@given(st.sampled_from(["http", "https", "HTTP", "file", ""]), hosts, hosts, cases)
@fuzzed
def test_an_origin_is_own_only_at_the_same_host_and_port(scheme, origin_host, host, case):
    for origin in (f"{scheme}://{origin_host}", f"{scheme}://{case(origin_host)}"):
        expected = bool(origin_host) and origin_host == host
        assert is_own_origin(origin.encode(), host.encode()) == expected


addresses = st.ip_addresses().map(str)


@given(
    addresses,
    st.lists(addresses, max_size=40),
    st.lists(st.sampled_from(["10.0.0.7", "10.9.9.9:80"]), max_size=5),
    ows,
)
@fuzzed
def test_the_client_is_left_of_the_proxies_whatever_it_sent_before(client, forged, proxies, space):
    assume(not PROXIES.trusts(client))
    chain = f"{space},{space}".join([*forged, client, *proxies])
    expected = ip_address(client)
    found = ip_address(PROXIES.client_of("127.0.0.1", chain.encode()))
    assert found == (getattr(expected, "ipv4_mapped", None) or expected)
    assert PROXIES.client_of("192.0.2.9", chain.encode()) == "192.0.2.9"


@given(mutated((b"b7ad6b71-2/3@x", b"1")))
@fuzzed
def test_an_id_of_a_request_always_has_the_narrow_form(raw):
    found = request_id_of([(b"x-request-id", raw)])
    assert re.fullmatch(rb"[A-Za-z0-9._~:/@+=-]{1,128}", found)
    assert (found == raw) == bool(re.fullmatch(rb"[A-Za-z0-9._~:/@+=-]{1,128}", raw))


# Queries, forms and tokens


@given(st.dictionaries(texts, texts, max_size=20))
@fuzzed
def test_a_query_has_the_parameters_that_were_written(values):
    assume(all(name or value for name, value in values.items()))
    query = Query(urlencode(values).encode())
    assert {name: query.take(name, lambda _, text: text) for name in values} == values
    query.end()


@given(mutated(QUERIES))
@fuzzed
def test_a_query_is_read_as_the_standard_library_reads_it(raw):
    assume(raw.isascii())
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        pairs = None
    found = outcome(PARSERS["a query string"], raw)
    if pairs is None or len(dict(pairs)) < len(pairs) or raw.count(b"&") >= 20:
        assert isinstance(found, InvalidRequest)
    else:
        assert found._values == dict(pairs)


@given(st.dictionaries(texts.filter(bool), texts, max_size=20))
@fuzzed
def test_a_form_has_the_fields_that_were_written(values):
    expected = {name: text.strip() for name, text in values.items() if text.strip()}
    assert form(urlencode(values).encode()) == expected


@given(mutated((TOKEN, SESSION.issue_token("sign-out").encode())))
@fuzzed
def test_only_a_token_that_was_issued_for_the_action_is_accepted(raw):
    found = outcome(PARSERS["a token of a form"], raw)
    assert isinstance(found, Exception) == (raw != TOKEN)


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=offsets), st.booleans())
@fuzzed
def test_a_moment_is_the_one_that_was_written(moment, has_space):
    text = moment.isoformat()
    sent = text.replace("+", " ") if has_space else text
    assert MOMENT.read("created_after", sent) == moment.astimezone(UTC)


@given(st.integers(-10, 2_000), st.sampled_from(["", "0", "+", " "]))
@fuzzed
def test_a_limit_is_a_number_from_1_to_200_without_a_sign(number, before):
    sent = f"{before}{number}"
    is_right = 1 <= number <= LIMIT.schema["maximum"] and before in ("", "0") and len(sent) <= 3
    try:
        assert LIMIT.kind.read("limit", sent) == number
        assert is_right
    except InvalidRequest:
        assert not is_right


# CSV


stock_names = st.text(characters, max_size=8).map(lambda text: text.replace("\x00", ""))
rows = st.tuples(path_names, path_names, st.integers(0, AVAILABLE_MAX), stock_names)


@given(st.lists(rows, min_size=1, max_size=5), st.permutations(COLUMNS), st.booleans(),
       st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
       st.sampled_from(["", "\ufeff"]))  # fmt: skip
@fuzzed
def test_a_file_has_the_rows_that_were_written(written, columns, has_header, end, quoting, mark):
    order = columns if has_header else COLUMNS
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end, quoting=quoting)
    if has_header:
        writer.writerow(order)
    for row in written:
        by_name = dict(zip(COLUMNS, row, strict=True))
        writer.writerow([by_name[column] for column in order])
    raw = (mark + out.getvalue()).encode()
    expected = [(sku, place, available, name or None) for sku, place, available, name in written]
    assert [row for _, row in lines_of(raw)] == expected


@given(mutated(CSV))
@fuzzed
def test_each_line_of_a_file_is_a_valid_row_or_a_message(raw):
    before = 0
    for line, found in lines_of(raw):
        assert before < line <= raw.count(b"\n") + raw.count(b"\r") + 1
        before = line
        if isinstance(found, str):
            assert found
            assert len(found) < 500
        else:
            sku, place, available, name = found
            assert is_name(sku)
            assert is_name(place)
            assert 0 <= available <= AVAILABLE_MAX
            assert name is None or "\x00" not in name


# Cursors


cursor_texts = st.text(min_size=1, max_size=8).filter(
    lambda text: "\x00" not in text and text.isprintable()
)
moments = st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC))
POSITIONS = {
    "BY_CREATION": st.tuples(moments, st.integers(0, 2**128 - 1).map(lambda n: UUID(int=n))),
    "STOCK_BY_CREATION": st.tuples(moments, cursor_texts, cursor_texts),
    "BY_VERSION": st.integers(1, 2**63 - 1),
    "BY_STEP": st.tuples(st.integers(1, 2**31 - 1), cursor_texts, cursor_texts),
}


@pytest.mark.parametrize("name", POSITIONS)
@given(data=st.data())
@fuzzed
def test_a_cursor_names_the_position_that_it_was_made_of(name, data):
    position = data.draw(POSITIONS[name])
    order = getattr(cursors, name)
    assert cursors.read_cursor(order, "cursor", cursors.cursor_after(position)) == position


@pytest.mark.parametrize("name", [name for name in PARSERS if name.startswith("cursor of")])
@given(data=st.data())
@fuzzed
def test_no_two_cursors_name_the_same_position(name, data):
    raw = data.draw(mutated(PARSERS[name].seeds))
    found = outcome(PARSERS[name], raw)
    assert isinstance(found, InvalidRequest) or cursors.cursor_after(found).encode() == raw


# Bodies


def repeated(raw):
    """True when an object in a JSON text has a member twice."""
    found = []

    def look(pairs):
        found.append(len({name for name, _ in pairs}) < len(pairs))
        return dict(pairs)

    json.loads(raw, object_pairs_hook=look)
    return any(found)


@pytest.mark.parametrize("model", sorted(BODIES, key=lambda model: model.__name__))
@given(data=st.data())
@fuzzed
def test_a_body_that_is_accepted_has_each_member_once_and_no_other_members(model, data):
    raw = data.draw(mutated(seeds_of(model)))
    found = outcome(PARSERS[f"body {model.__name__}"], raw)
    if not isinstance(found, InvalidRequest):
        text = raw.removeprefix(b"\xef\xbb\xbf")
        assert not repeated(text)
        assert set(json.loads(text)) <= set(model.model_fields)
        assert parse(model, found.model_dump_json(exclude_unset=True).encode()) == found
