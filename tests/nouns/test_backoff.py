from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril import Backoff
from toril.backoff import LONGEST_DELAY, delay_ms


def test_backoffs_are_stored_in_bullmqs_shape() -> None:
    assert Backoff.fixed("5s").encode() == {"type": "fixed", "delay": 5000}
    assert Backoff.exponential("1s", jitter=0.5).encode() == {
        "type": "exponential",
        "delay": 1000,
        "jitter": 0.5,
    }
    assert Backoff.custom("mine").encode() == {"type": "mine"}
    assert Backoff.custom("mine", "2s").encode() == {"type": "mine", "delay": 2000}


@pytest.mark.parametrize(
    ("attempt", "delay"), [(1, 1000), (2, 2000), (3, 4000), (11, 1_024_000), (0, 1000)]
)
def test_exponential_doubles(attempt: int, delay: int) -> None:
    assert delay_ms({"type": "exponential", "delay": 1000}, attempt) == delay


def test_an_exponential_backoff_ends_growing() -> None:
    assert delay_ms({"type": "exponential", "delay": 1000}, 10**6) == LONGEST_DELAY


@pytest.mark.parametrize("attempt", [1, 2, 50])
def test_fixed_is_the_same_every_time(attempt: int) -> None:
    assert delay_ms({"type": "fixed", "delay": 700}, attempt) == 700


def test_a_bare_number_is_a_fixed_delay() -> None:
    assert delay_ms(700, 3) == 700


def test_a_custom_kind_is_for_the_worker_to_ask() -> None:
    assert delay_ms({"type": "mine", "delay": 5}, 1) is None


@pytest.mark.parametrize(
    "stored",
    [None, True, "5s", [], {}, {"type": ""}, {"type": 5}, {"type": "fixed"}, float("inf"),
     {"type": "fixed", "delay": "x"}, {"type": "fixed", "delay": -5},
     {"type": "fixed", "delay": float("nan")}],
)  # fmt: skip
def test_what_cannot_be_read_means_at_once(stored: Any) -> None:
    assert delay_ms(stored, 1) == 0


def test_jitter_out_of_range_counts_as_none() -> None:
    assert delay_ms({"type": "fixed", "delay": 700, "jitter": 3}, 1) == 700


@given(
    st.integers(1, 10**9), st.floats(0, 1), st.floats(0, 1, exclude_max=True), st.integers(1, 40)
)
def test_jitter_stays_between_its_bounds(
    delay: int, jitter: float, drawn: float, attempt: int
) -> None:
    stored: dict[str, Any] = {"type": "exponential", "delay": delay, "jitter": jitter}
    full = delay_ms({**stored, "jitter": 0}, attempt)
    got = delay_ms(json.loads(json.dumps(stored)), attempt, lambda: drawn)
    assert full is not None
    assert got is not None
    assert int(full * (1 - jitter)) - 1 <= got <= full


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Backoff.fixed("5s", jitter=1.5), "share between 0 and 1"),
        (lambda: Backoff.custom("fixed"), "built in"),
        (lambda: Backoff.custom(""), "needs a name"),
        (lambda: Backoff.fixed("soon"), "not a duration"),
    ],
)
def test_wrong_backoffs(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bare_number_has_no_unit() -> None:
    with pytest.raises(TypeError, match="unit"):
        Backoff.fixed(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
