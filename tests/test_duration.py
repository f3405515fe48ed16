"""Durations in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from toril import Backoff, Deduplication, Every, RateLimit
from toril.duration import duration_text, milliseconds

BARE: Any = 5


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("250ms", 250), ("5m", 300_000), ("1h 30m", 5_400_000), ("1w", 7 * 86_400_000)],
)
def test_a_text_says_its_unit(duration: str, expected: int) -> None:
    assert milliseconds(duration) == milliseconds(timedelta(milliseconds=expected)) == expected
    assert milliseconds(duration_text(expected)) == expected


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Every(BARE), "Every: interval"),
        (lambda: Every("5m", offset=BARE), "Every: offset"),
        (lambda: RateLimit(1, BARE), "RateLimit: per"),
        (lambda: Backoff.fixed(BARE), "Backoff: delay"),
        (lambda: Deduplication("x", ttl=BARE), "Deduplication: ttl"),
    ],
)
def test_an_error_says_where(make: Callable[[], object], where: str) -> None:
    with pytest.raises(TypeError, match=f"^{where}: .*not 5: a bare number does not say its unit"):
        make()


def test_nothing_is_no_bare_number() -> None:
    with pytest.raises(TypeError, match=r"such as '5s', not None$"):
        milliseconds(cast(Any, None))
