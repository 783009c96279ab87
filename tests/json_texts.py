"""JSON in any spelling, for Hypothesis."""

import json

from hypothesis import strategies as st

texts = st.text(st.sampled_from('a:"[]{},\\é🛒\n'), max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def written(draw, value):
    """A JSON text of a value, in any spelling, perhaps with repeated members."""
    space = draw(st.sampled_from(["", "", " ", "\n\t "]))
    if isinstance(value, dict):
        members = [*value.items()] * (2 if draw(st.integers(0, 9)) == 0 else 1)
        inner = ",".join(f"{written(draw, k)}:{written(draw, v)}" for k, v in members)
        return f"{space}{{{space}{inner}}}{space}"
    if isinstance(value, list):
        return f"{space}[{','.join(written(draw, item) for item in value)}{space}]"
    return space + json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def json_texts(draw):
    return written(draw, draw(values)).encode()
