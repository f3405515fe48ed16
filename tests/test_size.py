"""Sizes in words."""

from __future__ import annotations

from typing import Any

import pytest

from toril.size import size_in_bytes


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 1), ("512MiB", 512 * 2**20), ("1.5 kB", 1500), ("2GiB", 2**31), ("7B", 7), ("1MB", 10**6)],
)
def test_a_size_is_a_number_of_bytes(size: int | str, expected: int) -> None:
    assert size_in_bytes(size) == expected


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ("512", ValueError),
        ("-1B", ValueError),
        (0, ValueError),
        (True, TypeError),
        (1.5, TypeError),
    ],
)
def test_what_is_no_size(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="a size"):
        size_in_bytes(size)
