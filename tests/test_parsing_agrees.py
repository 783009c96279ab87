"""A body gets the same result in one step, member by member, and as an entry of a batch."""

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, ValidationError

from service.domain.errors import InvalidRequest
from service.input import parsing
from service.input.bodies import LineBody, ReserveBody
from service.input.parsing import InvalidEntry, parse, parse_batch
from tests.json_texts import scalars, texts, values, written


class StrictLine(LineBody):
    model_config = ConfigDict(extra="forbid", strict=True)


class StrictReserve(ReserveBody):
    """The model as pydantic alone checks it: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)
    lines: list[StrictLine]


def mostly(*good, bad=scalars):
    """Generate good values, and sometimes a bad one."""
    return st.integers(0, 15).flatmap(lambda n: bad if n == 0 else st.sampled_from(good))


def mostly_without(bad):
    return st.integers(0, 15).flatmap(lambda n: bad if n == 0 else st.just({}))


lines = st.builds(
    lambda known, unknown: known | unknown,
    st.fixed_dictionaries(
        {
            "sku": mostly(
                "A", "A:B", '"', bad=st.sampled_from(["", " A", "A\u200b", "."]) | scalars
            ),
            "quantity": mostly(1, 2, 1_000_000),
        },
        optional={"location": mostly("main", "north")},
    ),
    mostly_without(st.fixed_dictionaries({}, optional={"qty": scalars, "quantity": values})),
)
bodies = st.builds(
    lambda known, unknown: known | unknown,
    st.fixed_dictionaries(
        {"lines": st.integers(0, 9).flatmap(lambda n: st.lists(lines, min_size=n > 0, max_size=4))},
        optional={
            "seq": mostly("1", "a:b", None, bad=st.just("\ufeff1") | scalars),
            "source": mostly("shop", None),
            "id": mostly("01890a5d-ac96-774b-bcce-b302099a8057"),
            "hold_seconds": mostly(1, 604_800, None),
            "metadata": st.dictionaries(texts, texts, max_size=3) | mostly({}, bad=values),
        },
    ),
    mostly_without(st.dictionaries(texts, values, max_size=2)),
)


@st.composite
def reservations(draw):
    return written(draw, draw(bodies)).encode()


def is_good(raw):
    """Return whether pydantic accepts the body and no member appears twice."""
    twice = []

    def look(pairs):
        found = dict(pairs)
        twice.append(len(found) != len(pairs))
        return found

    json.loads(raw, object_pairs_hook=look)
    try:
        StrictReserve.model_validate_json(raw)
    except ValidationError:
        return False
    lines_found = json.loads(raw)["lines"]
    return not any(twice) and len(lines_found) >= 1


@given(reservations())
@settings(max_examples=600, deadline=None)
def test_every_way_to_parse_a_body_gives_the_same_result(raw):
    found = []
    for read in (parse, lambda model, raw: parsing._parse_by_member(model, raw, parsing._Errors())):
        try:
            found.append(read(ReserveBody, raw))
        except InvalidRequest as error:
            found.append(error.fields)
    entry = asyncio.run(parse_batch(b'{"reservations":[%b]}' % raw))[0]
    found.append(entry.error.fields if isinstance(entry, InvalidEntry) else entry)
    assert found[0] == found[1] == found[2]
    assert isinstance(found[0], ReserveBody) == is_good(raw)
