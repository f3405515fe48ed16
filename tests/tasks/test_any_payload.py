"""Whatever fits the types comes back as it was; whatever does not is refused in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.kinds import Colour, Line

from toril.errors import InvalidJob
from toril.payload import Arguments
from toril.protocol.codec import encode_json


@dataclass
class Everything:
    whole: int
    part: float | None
    word: str
    raw: bytes
    when: datetime
    long: timedelta
    sum: Decimal
    key: UUID
    colour: Colour
    lines: list[Line]
    by_name: dict[str, tuple[int, bool]]


def take(first: Everything, second: list[Everything] | None = None) -> None: ...


ARGUMENTS = Arguments(take, "take")
INTEGERS = st.integers(-(2**53), 2**53)
EVERYTHING: st.SearchStrategy[Everything] = st.builds(
    Everything,
    whole=INTEGERS,
    part=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    word=st.text(st.characters(codec="utf-8")),
    when=st.datetimes(timezones=st.just(UTC)),
    long=st.timedeltas(timedelta(days=-1000), timedelta(days=1000)),
    sum=st.decimals(allow_nan=False, allow_infinity=False),
    lines=st.lists(st.from_type(Line), max_size=2),
    by_name=st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.tuples(INTEGERS, st.booleans()), max_size=3
    ),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(EVERYTHING, st.none() | st.lists(EVERYTHING, max_size=2))
def test_what_fits_comes_back(first: Everything, second: list[Everything] | None) -> None:
    for each in (first, *(second or ())):
        for line in each.lines:
            for point in (line.start, line.end):
                # Integers beyond are refused where all payloads are.
                point.x, point.y = point.x % 2**53, point.y % 2**53
    payload = ARGUMENTS.encode((first,), {"second": second})
    stored = json.loads(encode_json(payload))
    assert ARGUMENTS.decode(stored).args == (first, second)


@given(JSON | st.dictionaries(st.sampled_from(["first", "second", "third"]), JSON))
def test_what_does_not_fit_is_refused_in_words(payload: Any) -> None:
    with pytest.raises(InvalidJob, match=r"^task 'take': ") as caught:
        ARGUMENTS.decode(payload)  # nothing of this is an Everything
    assert len(str(caught.value)) < 600
