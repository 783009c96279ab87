"""The file of an import is read line by line, and each error names its line."""

import asyncio
import tracemalloc

import pytest

from service.domain.errors import InvalidRequest
from service.engine.imports import check, rows_of

NUMBER = "available is not a whole number from 0 to 1,000,000,000,000:"
EARLIER = "this sku and location stand on an earlier line"
EXPECTED = "expected sku,location,available,name"


def read_rows(raw):
    """Check a file, then return its rows in order."""
    count = asyncio.run(check(raw))
    rows = tuple(sorted(rows_of(raw)))
    assert len(rows) == count
    return rows


def refused(content):
    with pytest.raises(InvalidRequest) as caught:
        read_rows(content if isinstance(content, bytes) else content.encode())
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        "A,main,5,x\nB,north,7\n",
        "\ufeffsku,location,available,name\nA,main,5,x\nB,north,7\n",
        "\n\nSKU,Location,Available,Name\n\nA,main,5,x\n\nB,north,7,\n\n",
        "sku, location , available, name\r\nA,main,5,x\r\nB,north,7\r\n",
        "available,name,sku,location\n5,x,A,main\n7,,B,north",
        'sku,available,location,name\nB,7,north,\n"A",5,,"x"\n',
    ],
)
def test_columns_are_found_by_the_header_or_else_by_their_order(content):
    assert read_rows(content.encode()) == (("A", "main", 5, "x"), ("B", "north", 7, None))


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("\nA,main,x", 2, f"{NUMBER} 'x'"),
        ("A,main,-1", 1, f"{NUMBER} '-1'"),
        ("A,main,1.2E+05", 1, f"{NUMBER} '1.2E+05'"),
        ('A,main,"1,000"', 1, f"{NUMBER} '1,000'"),
        ("A,main, 5", 1, f"{NUMBER} ' 5'"),
        ("A,main,٣", 1, f"{NUMBER} '٣'"),
        ("A,main,1000000000001", 1, f"{NUMBER} '1000000000001'"),
        ("A,main," + "1" * 9_999, 1, f"{NUMBER} '{'1' * 32}…'"),
        ("A,main,", 1, "available is empty"),
        ("A,main", 1, f"the number of fields is 2; {EXPECTED}"),
        ("A;main;5", 1, f"the number of fields is 1; {EXPECTED}; separate the fields with commas"),
        ("A,main,5,x,y", 1, f"the number of fields is 5; {EXPECTED}"),
        ("available,sku\n5", 2,
         "the number of fields is 1; expected available,sku; separate the fields with commas"),
        ("sku,location,qty\nA,main,5", 1,
         "the column 'qty' is not known; the columns are sku, location, available and name"),
        ("avail,sku\n5,A", 1, "the column 'avail' is not known; did you mean available?"),
        ("sku,location\nA,main", 1, "there is no column available"),
        ("location,available\nA,5", 1, "there is no column sku"),
        ("sku,available,sku\nA,5,A", 1, "the column sku appears twice"),
        ("sku,sku,location", 1, "the column sku appears twice"),
        (" A,main,5", 1, "sku must not begin with a space"),
        ("A ,main,5", 1, "sku must not end with a space"),
        (",main,5", 1, "sku must not be empty"),
        ("A,main,5\n\ufeffB,main,5", 2,
         "sku must not begin with the invisible U+FEFF"),
        ("A\u200b,main,5", 1, "sku must not end with the invisible U+200B"),
        ("A,main\u202e,5", 1, "location must not end with the invisible U+202E"),
        ("A\x07,main,5", 1, "sku must not contain the control character U+0007"),
        ("..,main,5", 1, "sku must not be . or .., which can't be addressed in a path"),
        ("A,main,5," + "n" * 257, 1, "name has more than 256 characters"),
        ("A,main,5,\0", 1, "name must not contain the control character U+0000"),
        ("A,main,5\nB,main,5\nA,main,6", 3, EARLIER),
        ("A,main,5\nA,,6", 2, EARLIER),
        ('A,main,5,"two\nlines"\nB,main,x', 3, f"{NUMBER} 'x'"),
        ('A,main,5\nB,main,5,"x', 2, "a quote is never closed"),
        ('A,main,5,"x"y', 1, "text follows a closing quote; double the quotes inside a field"),
        ("A,main,5," + "x" * 200_000, 1,
         "a field has more than 131,072 characters: is its quote closed?"),
        (b"A,main,5\nB,main,5\n\xffC,main,5\n", 3,
         "it is not UTF-8: save the file in this encoding"),
        ("A,main,5".encode("utf-16"), 1, "it is not UTF-8: save the file in this encoding"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_the_reason(content, line, message):
    error = refused(content)
    assert error.fields["errors"] == [{"path": f"line {line}", "message": message}]
    assert error.detail == f"line {line}: {message}" + ("" if message.endswith("?") else ".")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "sku,location,available\n"])
def test_a_file_without_rows_is_refused(content):
    errors = refused(content).fields["errors"]
    assert errors == [{"path": "body", "message": "has no rows to import"}]


def test_reading_stops_after_a_hundred_bad_lines():
    content = b"x\n" * 2_000_000
    tracemalloc.start()
    error = refused(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(error.fields["errors"]), error.fields["truncated"]) == (100, True)
    assert peak < 1024 * 1024
    assert "truncated" not in refused(b"x\n" * 100).fields
