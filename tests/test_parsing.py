"""A valid body is parsed in one step; an invalid body gets at most a hundred errors."""

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc

import pytest
from pydantic import ValidationError

from service.domain.errors import InvalidRequest
from service.input import pace, parsing
from service.input.bodies import ReserveBody
from service.input.parsing import InvalidEntry, parse, parse_batch

MIB = 1024 * 1024
GOOD = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode()


def refused(model, raw):
    """Return the errors of a body as {path: message}, and whether the list is complete."""
    with pytest.raises(InvalidRequest) as caught:
        parse(model, raw)
    fields = caught.value.fields
    errors = {error["path"]: error["message"] for error in fields["errors"]}
    return errors, not fields.get("truncated", False)


def entries_of(raw):
    return asyncio.run(parse_batch(raw))


# The number of errors


def many(unit, count, separator=b","):
    return separator.join([unit] * count)


def unknown(count, size=6):
    return b",".join(b'"a%0*d":0' % (size, n) for n in range(count))


TOO_MANY = {
    "unknown members": b'{"seq":"1",' + unknown(100_000) + b"}",
    "one unknown member repeated": b"{" + many(b'"":0', 200_000) + b"}",
    "one known member repeated": b"{" + many(b'"seq":"1"', 100_000) + b"}",
    "bad lines": b'{"lines":[' + many(b"{}", 1000) + b"]}",
    "lines with unknown members": b'{"lines":[' + many(b'{"a":1,"b":2}', 1000) + b"]}",
    "a line with unknown members": b'{"lines":[{' + unknown(99_000) + b"}]}",
    "too many bad lines": b'{"lines":[' + many(b"{}", 340_000) + b"]}",
    "one member of metadata repeated": b'{"metadata":{' + many(b'"":""', 150_000) + b"}}",
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_a_hundred_errors_are_listed_and_the_rest_is_left_out(name):
    with pytest.raises(InvalidRequest) as caught:
        parse(ReserveBody, TOO_MANY[name])
    assert len(caught.value.fields["errors"]) == 100
    assert caught.value.fields["truncated"] is True
    assert len(encoded(caught.value.fields)) < 50_000


@pytest.mark.parametrize("name", ["bad lines", "unknown members", "metadata"])
def test_pydantic_stops_at_the_first_bad_item(name):
    """Otherwise it would make an error object for each item."""
    metadata = b'{"lines":[{"sku":"A","quantity":1}],"metadata":{' + unknown(100) + b"}}"
    with pytest.raises(ValidationError) as caught:
        ReserveBody.model_validate_json({**TOO_MANY, "metadata": metadata}[name])
    assert caught.value.error_count() <= 2


def test_exactly_a_hundred_errors_are_not_truncated():
    lines = b'{"lines":[' + many(b'{"sku":"A","quantity":0}', 100) + b"]}"
    with pytest.raises(InvalidRequest) as caught:
        parse(ReserveBody, lines)
    assert len(caught.value.fields["errors"]) == 100
    assert "truncated" not in caught.value.fields
    metadata = b'{"lines":[{"sku":"A","quantity":1}],"metadata":{' + unknown(100_000) + b"}}"
    errors, is_all = refused(ReserveBody, metadata)
    assert (errors, is_all) == ({"metadata": "has more than 16 members"}, True)


def test_an_error_in_the_last_line_is_found():
    lines = [{"sku": "A", "quantity": 1}] * 999 + [{"sku": "A", "quantity": 0}]
    errors, _ = refused(ReserveBody, encoded({**GOOD, "lines": lines}))
    assert errors == {"lines[999].quantity": "must be at least 1"}


# Batches


def batch(*entries):
    raw = [entry if isinstance(entry, bytes) else encoded(entry) for entry in entries]
    return b'{"reservations":[' + b",".join(raw) + b"]}"


@pytest.mark.parametrize(
    "bad",
    [
        b"{" + unknown(330_000) + b"}",
        b'{"x":[' + many(b"0", 1_000_000) + b"]}",
        b'{"x":[' + many(b"{}", 1_000_000) + b"]}",
        b'{"metadata":{' + unknown(300_000) + b"}}",
        b'{"lines":[{' + unknown(300_000) + b"}]}",
        b'{"seq":"' + many(b"\\ud800", 5_000, b"") + b'"}',
        b'{"seq":' + b"1" * 1_000_000 + b"}",
        b"[" * 400 + b"]" * 400,
        b'{"lines":{}}',
        *(raw for name, raw in TOO_MANY.items() if name != "too many bad lines"),
    ],
    ids=lambda raw: raw[:24].decode(),
)
def test_a_hostile_entry_fails_alone(bad):
    first, between, last = entries_of(batch(GOOD, bad, GOOD))
    assert isinstance(first, ReserveBody)
    assert isinstance(last, ReserveBody)
    assert isinstance(between, InvalidEntry)
    assert 1 <= len(between.error.fields["errors"]) <= 100


@pytest.mark.parametrize(
    "entry",
    [b"{}", b"0", b'{"lines":[{},{},{}]}', b"{%b}" % unknown(300), b'{"%b":1}' % (b"y" * 4_000)],
    ids=lambda raw: raw[:20].decode(),
)  # fmt: skip
def test_a_batch_of_bad_entries_gets_one_error_for_each_and_few_more(entry):
    found = entries_of(batch(*[entry] * 1000))
    counts = [len(bad.error.fields["errors"]) for bad in found]
    assert (min(counts), len(counts)) == (1, 1000)
    assert sum(counts) <= 1_100
    told = [[bad.error.detail, bad.error.fields] for bad in found]
    assert len(encoded(told)) < 512 * 1024
    assert found[-1].error.fields.get("truncated") is True


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (batch(*[b'{"lines":[' + many(b"{}", 1000) + b"]}"] * 1000), "reservations"),
        (batch(b'{"lines":[' + many(b"{}", 10_001) + b"]}"), "reservations"),
        (
            batch(*[{"lines": GOOD["lines"] * 1000}] * 5, b'{"lines":[%b]}' % many(b"0", 5_001)),
            "reservations",
        ),
        (batch(*[b"{}"] * 1001), "reservations"),
        (b'{"reservations":[' + many(b"0", 2_000_000) + b"]}", "reservations"),
        (b'{"reservations":[]}', "reservations"),
        (b'{"reservations":{}}', "reservations"),
        (b'{"reservations":null}', "reservations"),
        (b"{}", "reservations"),
        (batch(GOOD)[:-1] + b',"x":1}', "x"),
        (batch(GOOD)[:-1] + b',"reservations":[]}', "reservations"),
        (batch(GOOD)[:-1], "body"),
        (batch(GOOD, b'{"seq":"\xff"}'), "body"),
        (batch(GOOD, b'{"seq":"a\nb"}'), "body"),
        (batch(GOOD, b"[" * 200_000 + b"]" * 200_000), "body"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_batch_that_is_invalid_as_a_whole_is_refused(raw, path):
    with pytest.raises(InvalidRequest) as caught:
        entries_of(raw)
    assert caught.value.fields["errors"][0]["path"] == path


def test_a_batch_of_ten_thousand_lines_is_accepted():
    most = [{"seq": f"{n}", "lines": GOOD["lines"] * 1000} for n in range(10)]
    assert all(isinstance(entry, ReserveBody) for entry in entries_of(batch(*most)))


def test_other_tasks_run_while_a_batch_is_parsed(monkeypatch):
    monkeypatch.setattr(pace, "SLICE_SECONDS", 0)
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read():
        other = asyncio.create_task(others())
        await parse_batch(batch(*[GOOD] * 500, *[b"{}"] * 500))
        other.cancel()

    asyncio.run(read())
    assert turns >= 1000


# Cost


COST = """
import asyncio, os, time
from service.input.bodies import ReserveBody
from service.domain.errors import InvalidRequest
from service.input.parsing import parse, parse_batch
from tests.test_parsing import GOOD, HEAVY, batch

def read(raw):
    try:
        if raw.startswith(b'{"reservations"'):
            asyncio.run(parse_batch(raw))
        else:
            parse(ReserveBody, raw)
    except InvalidRequest:
        pass

def megabytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) // 1024

def measure(name):
    raw = HEAVY[name]()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak to the current usage
    kept, began = megabytes("VmRSS"), time.process_time()
    read(raw)
    print(name, megabytes("VmHWM") - kept, time.process_time() - began, sep="\t", flush=True)

read(batch(GOOD, b"{}"))
for name in HEAVY:  # each body in a new process, so that no freed memory is reused
    child = os.fork()
    if not child:
        measure(name)
        os._exit(0)
    os.waitpid(child, 0)
"""


def filled(begin, unit, end, size=4 * MIB):
    return begin + unit * ((size - len(begin) - len(end)) // len(unit)) + end


def entry_filled(begin, unit, end):
    return lambda: batch(GOOD, filled(begin, unit, end, 4 * MIB - 200), GOOD)


HEAVY = {
    **{name: (lambda raw=raw: raw) for name, raw in TOO_MANY.items()},
    "an entry of unknown members": lambda: batch(b"{" + unknown(330_000) + b"}"),
    "an entry of bad lines": entry_filled(b'{"lines":[', b"{},", b"{}]}"),
    "an entry of empty objects": entry_filled(b'{"x":[', b"{},", b"{}]}"),
    "an entry of empty lists": entry_filled(b'{"x":[', b"[],", b"[]]}"),
    "an entry of numbers": entry_filled(b'{"x":[', b"0,", b"0]}"),
    "an entry of texts": entry_filled(b'{"x":[', b'"",', b'""]}'),
    "an entry of brackets in texts": entry_filled(b'{"x":[', b'"[",', b'"]"]}'),
    "an entry of half characters": entry_filled(b'{"seq":"', b"\\ud800x", b'"}'),
    "an entry of escapes": entry_filled(b'{"seq":"', b"\\\\", b'"}'),
    "an entry of colons": entry_filled(b'{"seq":"', b":", b'"}'),
    "an entry of long numbers": entry_filled(b'{"x":[', b"1" * 3999 + b",", b"0]}"),
    "an entry of deep lists": entry_filled(b'{"x":[', b"[" * 400 + b"]" * 400 + b",", b"0]}"),
    "an entry of deep objects": entry_filled(
        b'{"x":[', b'{"a":' * 90 + b"0" + b"}" * 90 + b",", b"0]}"
    ),
    "entries of bad lines": lambda: batch(*[b'{"lines":[' + many(b"{}", 1000) + b"]}"] * 1000),
    "a list of numbers": lambda: filled(b'{"reservations":[', b"0,", b"0]}"),
    "an entry whose seq is a list": entry_filled(b'{"seq":[', b"{},", b"0]}"),
    "an entry whose seq is an object": entry_filled(b'{"seq":{', b'"":[],', b'"":0}}'),
    "an entry whose metadata has a list": entry_filled(b'{"metadata":{"a":[', b"0,", b"0]}}"),
    "unclosed": lambda: filled(b'{"reservations":[', b'"\\u",', b'"'),
    "deep": lambda: filled(b'{"reservations":', b"[", b""),
}  # fmt: skip


def test_memory_and_time_grow_no_faster_than_the_size_of_a_body():
    """The time limit is so high that only superlinear parsing exceeds it."""
    found = subprocess.run(
        [sys.executable, "-c", COST], capture_output=True, text=True, check=True, timeout=120
    ).stdout.splitlines()
    assert len(found) == len(HEAVY)
    for line in found:
        name, grown, took = line.split("\t")
        assert int(grown) <= 64, f"{name}: {grown} MB"
        assert float(took) <= 2, f"{name}: {took} s"


def test_errors_do_not_keep_the_bodies_of_bad_entries_in_memory():
    """An error that kept its frames would keep the body until the next garbage collection."""
    raw = batch(b"{%b}" % unknown(100_000))
    entries_of(raw)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            entries_of(raw)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < len(raw)


# Valid bodies


def test_a_body_may_begin_with_a_byte_order_mark():
    bom = b"\xef\xbb\xbf"
    assert parse(ReserveBody, bom + encoded(GOOD)) == parse(ReserveBody, encoded(GOOD))
    assert isinstance(entries_of(bom + batch(GOOD))[0], ReserveBody)
    assert "body" in refused(ReserveBody, bom * 2 + encoded(GOOD))[0]
    assert (
        "lines[0].sku"
        in refused(ReserveBody, encoded({"lines": [{"sku": "\ufeffA", "quantity": 1}]}))[0]
    )


def test_strings_that_look_like_many_values_are_parsed():
    lines = [{"sku": f'[{n}]{{,:"' + ",{[" * 38, "quantity": 1} for n in range(1000)]
    raw = encoded({**GOOD, "lines": lines, "metadata": {"a": "[,{:" * 64}}) + b" " * 200_000
    assert len(raw) > parsing.SMALL
    assert parsing._parse_if_valid(ReserveBody, raw) is None
    assert len(parse(ReserveBody, raw).lines) == 1000


@pytest.mark.parametrize("depth", [1, 5, 16, 17, 40, 300, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_deeper_than_16_is_refused_with_a_message(depth, opens, closes):
    raw = opens * depth + b"0" + closes * depth
    with pytest.raises(InvalidRequest) as caught:
        parse(ReserveBody, raw)
    is_said = caught.value.fields["errors"] == [
        {"path": "body", "message": "is nested more than 16 deep"}
    ]
    assert is_said == (depth > 16)
