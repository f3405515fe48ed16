"""What is stored as JSON, and what is refused."""

from __future__ import annotations

import json
import math
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.errors import InvalidJob
from toril.protocol.codec import (
    DEEPEST,
    decode_json,
    encode_json,
    encode_opts,
    encode_stacktrace,
    valid_text,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
)


@given(json_values)
def test_every_json_value_comes_back(value: Any) -> None:
    text = encode_json(value)
    assert decode_json(text) == value
    assert json.loads(text) == value


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "data"),
        ({"a": [1, math.inf]}, "data.a[1]"),
        ({"a": {"b": -math.inf}}, "data.a.b"),
        (2**53 + 1, "data"),
        ({"big": [-(2**53) - 1]}, "data.big[0]"),
        ([2**64], "data[0]"),
        ([-(2**100)], "data[0]"),
        ({"a": "\ud800"}, "data.a"),
        ({"\ud800": 1}, "data"),
        ({1: "x"}, "data"),
        ({"a": {None: 1}}, "data.a"),
        ({"a": b"bytes"}, "data.a"),
        ([{1, 2}], "data[0]"),
        ([datetime(2026, 1, 1)], "data[0]"),  # noqa: DTZ001 - refused all the same
        ([Decimal(1)], "data[0]"),
        ([UUID(int=1)], "data[0]"),
        ([Colour.RED], "data[0]"),
        ([object()], "data[0]"),
        ((1, (2, math.nan)), "data[1][1]"),
    ],
)
def test_what_others_would_read_differently_is_refused(value: Any, place: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        encode_json(value)
    assert str(caught.value).startswith(f"{place}: ")


def nested(depth: int, kind: type[list[Any] | dict[str, Any]] = list) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"k": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("depth", [DEEPEST + 1, 1000, 100_000])
def test_too_deep_is_refused(kind: Any, depth: int) -> None:
    assert encode_json(nested(DEEPEST, kind))
    with pytest.raises(InvalidJob, match="64 levels"):
        encode_json(nested(depth, kind))


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidJob, match="64 levels"):
        encode_json(value)


def test_many_parts_and_long_digits_are_no_reason_to_refuse() -> None:
    value: Any = [{"id": "1234567890123456789", "f": 0.1234567890123456789}] * 1000
    assert json.loads(encode_json(value)) == value
    assert encode_json([2**53, -(2**53)]) == "[9007199254740992,-9007199254740992]"


def test_tuples_are_lists() -> None:
    assert encode_json((1, (2,))) == "[1,[2]]"


def test_the_size_is_that_of_the_bytes() -> None:
    assert encode_json("ää", most_bytes=6)
    with pytest.raises(InvalidJob, match="result is 6 bytes"):
        encode_json("ää", "result", most_bytes=5)


def test_opts_are_stored_under_short_names() -> None:
    opts = {"failParentOnFailure": True, "keepLogs": 3, "delay": None, "lifo": True}
    stored = {"attempts": 0, "fpof": True, "kl": 3, "lifo": True}
    assert json.loads(encode_opts(opts)) == stored
    assert json.loads(encode_opts({"attempts": 5})) == {"attempts": 5}


def test_deduplication_has_a_short_name_and_its_options_have_none() -> None:
    window: Any = {"id": "x", "keepLastIfActive": True}
    assert json.loads(encode_opts({"deduplication": window}))["de"] == window


def test_traces_and_reasons_are_made_valid() -> None:
    assert json.loads(encode_stacktrace(["a\ud800b", "ä"])) == ["a?b", "ä"]
    assert valid_text("x\udfffy") == "x?y"
    assert valid_text("ä") == "ä"


@pytest.mark.parametrize("raw", [b"{", b"", b"\xff", b"[" * 100_000, "nan"])
def test_decoding_something_else_is_a_value_error(raw: bytes | str) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        decode_json(raw)
