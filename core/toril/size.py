"""Sizes: a number of bytes, or a text such as `"512MiB"`."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)\s*")


def size_in_bytes(size: int | str) -> int:
    """`size` in bytes.

    A text is a number with a unit of `B`, `kB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`.

    Raises:
        TypeError: for anything but a whole number or a text.
        ValueError: for a text that is not a size, and for a size below 1.
    """
    if isinstance(size, str):
        found = _SIZE.fullmatch(size)
        if found is None:
            raise ValueError(f"{size!r} is not a size; write a number and a unit, as in '512MiB'")
        number = round(float(found[1]) * _UNITS[found[2]])
    elif isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"a size is a number of bytes or a text such as '512MiB', not {size!r}")
    else:
        number = size
    if number < 1:
        raise ValueError(f"a size is at least one byte, not {size!r}")
    return number
