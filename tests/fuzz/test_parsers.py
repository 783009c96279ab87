"""Whatever a client sends, a parser returns a value or one of its errors, in linear time."""

import inspect
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import InvalidRequest, ServiceError
from service.http.responses import problem_response
from service.input import headers
from tests.fuzz.mutations import PIECES, fuzzed, fuzzed_at_the_bound, mutated, pumped
from tests.fuzz.parsers import PARSERS, outcome

BY_NAME = pytest.mark.parametrize("name", PARSERS)
ANSWER_MAX = 32 * 1024
"""Bytes of a problem document: a hundred errors that quote the client."""


def check(name, raw):
    """Parse, and make sure that an error can be sent, is small and names what is wrong."""
    result = outcome(PARSERS[name], raw)
    if isinstance(result, ServiceError):
        assert len(problem_response(result, "/", "1").body) < ANSWER_MAX
        if isinstance(result, InvalidRequest):
            assert all(each["path"] and each["message"] for each in result.fields["errors"])


@BY_NAME
@given(data=st.data())
@fuzzed
def test_a_parser_returns_a_value_or_one_of_its_errors(name, data):
    check(name, data.draw(mutated(PARSERS[name].seeds)))


@BY_NAME
def test_a_repeated_piece_is_parsed_in_linear_time(name):
    """Code that needs quadratic time for one is stopped by the timeout of the test."""
    parser = PARSERS[name]
    for seed in parser.seeds[:2]:
        for piece in [*PIECES, *parser.seeds]:
            repeated = (piece or b"a") * (parser.size // len(piece or b"a"))
            for cut in {0, len(seed) // 2, len(seed)}:
                check(name, seed[:cut] + repeated + b"!")


@BY_NAME
@given(data=st.data())
@fuzzed_at_the_bound
def test_the_longest_inputs_give_a_value_or_an_error(name, data):
    parser = PARSERS[name]
    check(name, data.draw(pumped(parser.seeds, parser.size)))


STEPS_BASE = 2_000
"""Bytes of the shorter of two inputs whose steps are compared."""


def steps(name, raw):
    """The number of lines of Python that a parser executes; regular expressions are not counted."""
    counted = 0

    def trace(frame, event, argument):
        nonlocal counted
        counted += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        outcome(PARSERS[name], raw)
    finally:
        sys.settrace(before)
    return counted


@BY_NAME
def test_the_steps_of_a_parser_grow_with_the_input_and_not_with_its_square(name):
    parser = PARSERS[name]
    for piece in [*PIECES, *parser.seeds]:
        for seed in parser.seeds:
            unit = piece or b"a"
            short, long = (
                steps(name, seed + unit * max(1, size // len(unit)))
                for size in (STEPS_BASE, 4 * STEPS_BASE)
            )
            assert long <= 6 * short + 1_000, (piece, seed, short, long)


def test_every_parser_reads_its_seeds():
    """The mutations begin at inputs that are valid, so they reach all of a parser."""
    for name, parser in PARSERS.items():
        results = [outcome(parser, seed) for seed in parser.seeds]
        assert not all(isinstance(each, Exception) for each in results), name


def test_no_function_that_reads_a_header_is_missing():
    reads = [
        name
        for name, function in inspect.getmembers(headers, inspect.isfunction)
        if function.__module__ == headers.__name__
        and not name.startswith("_")
        and bytes in [each.annotation for each in inspect.signature(function).parameters.values()]
    ]
    assert len(reads) > 6
    assert [name for name in reads if name not in PARSERS] == []
