"""The clock that a test moves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from toril.clock import ManualClock, as_datetime
from toril.duration import milliseconds


class ServerClock(ManualClock):
    """A `ManualClock` with which the server's expiring keys grow older.

    Jobs, rules and plugins take the time from the App's clock; a key with an expiry (a tombstone, a
    deduplication window, the window of a rate limit) is ended by the server, by its own. Advancing
    this one lets both pass. What running processes renew in real time stays: locks and leases.

    Args:
        start_ms: Its first time, in milliseconds since the epoch; None: the machine's.
    """

    def __init__(self, start_ms: int | None = None) -> None:
        super().__init__(start_ms)
        self._followers: list[Callable[[int], object]] = []

    def follow(self, age: Callable[[int], object]) -> None:
        """Call `age` with the milliseconds of every advance, such as `EmbeddedServer.age`."""
        self._followers.append(age)

    def now(self) -> datetime:
        """The time, in UTC."""
        return as_datetime(self.now_ms())

    def advance(self, duration: timedelta | str) -> None:
        """Move forward by `duration`, a `timedelta` or a text such as `"30d"`."""
        super().advance(duration)
        for age in self._followers:
            age(milliseconds(duration))

    def advance_to(self, moment: datetime) -> None:
        """Move forward to `moment`, which has a time zone.

        Raises `ValueError` if that has passed, or if it has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone")
        left = moment - self.now()
        if left < timedelta():
            raise ValueError(f"{moment} has passed; it is {self.now()}")
        self.advance(left)
