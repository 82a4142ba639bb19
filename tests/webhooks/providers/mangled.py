"""Bodies that were valid once."""

import copy
import json

from hypothesis import strategies as st

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\0", "\ud800", "9" * 40, "-1", "5.1.1", "Permanent", "x" * 3000])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=4), SCALARS, max_size=2)


def places(value, path=()):
    """Return the paths to everything in decoded JSON."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        found += places(inner, (*path, name))
    return found


@st.composite
def payloads(draw, valid):
    """Draw one of the valid payloads with some of its parts replaced, or gone."""
    payload = {"": copy.deepcopy(draw(st.sampled_from(valid)))}
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(places(payload)[1:]))
        inner = payload
        for step in way[:-1]:
            inner = inner[step]
        if len(way) > 1 and draw(st.booleans()):
            del inner[way[-1]]
        else:
            inner[way[-1]] = draw(VALUES)
    return payload[""]


@st.composite
def bodies(draw, valid):
    """Draw the body of a mangled payload; sometimes its bytes are mangled instead."""
    if draw(st.integers(0, 3)):
        return json.dumps(draw(payloads(valid))).encode()
    body = bytearray(json.dumps(draw(st.sampled_from(valid))).encode())
    for _ in range(draw(st.integers(1, 4))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)
