"""Where the time comes from. Nothing else in Toril reads the system clock for a job's times."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from toril.duration import milliseconds


class Clock(Protocol):
    """A source of wall-clock time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1_000


class ManualClock:
    """A clock that moves only when it is told to; for tests.

    `start_ms` is its first time, in milliseconds since the epoch (default: the machine's time).
    """

    def __init__(self, start_ms: int | None = None) -> None:
        self._now_ms = SystemClock().now_ms() if start_ms is None else start_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, duration: timedelta | str) -> None:
        """Move forward by `duration`, a `timedelta` or a text such as `"30d"`."""
        self._now_ms += milliseconds(duration)


def as_datetime(ms: int) -> datetime:
    """The moment `ms` milliseconds after the epoch, in UTC."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC)
