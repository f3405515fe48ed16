"""Durations: `timedelta` or a text such as `"5m"`, never a bare number."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_WHOLE = re.compile(rf"\s*(?:{_PART.pattern}\s*)+")


def milliseconds(duration: timedelta | str, of: str | None = None) -> int:
    """`duration` in whole milliseconds.

    A text is one or more numbers with a unit of `ms`, `s`, `m`, `h`, `d` or `w`: `"250ms"`,
    `"5m"`, `"1h 30m"`. `of` is the name of the argument, for errors.

    Raises:
        TypeError: for anything but a `timedelta` or a text; a bare number has no unit.
        ValueError: for a text that is not a duration, and for a negative one.
    """
    where = "" if of is None else f"{of}: "
    if isinstance(duration, timedelta):
        ms = duration // timedelta(milliseconds=1)
    elif isinstance(duration, str):
        if not _WHOLE.fullmatch(duration):
            raise ValueError(
                f"{where}{duration!r} is not a duration; write a number and a unit "
                "(ms, s, m, h, d, w), for example '250ms', '30s' or '1h 30m'"
            )
        ms = round(sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(duration)))
    else:
        raise TypeError(
            f"{where}a duration is a timedelta or a text such as '5s', "
            f"not {duration!r}{_hint(duration)}"
        )
    if ms < 0:
        raise ValueError(f"{where}a duration cannot be negative: {duration!r}")
    return ms


def _hint(given: object) -> str:
    return ": a bare number does not say its unit" if isinstance(given, int | float) else ""


def duration_text(ms: int) -> str:
    """`ms` milliseconds as a short text that `milliseconds` reads back exactly."""
    if ms == 0:
        return "0s"
    parts: list[str] = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, ms = divmod(ms, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)
