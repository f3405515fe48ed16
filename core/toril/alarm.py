"""A timer for times that mostly pass unneeded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """One timer of the loop for time limits of which hardly any is reached.

    A timer that is set and cancelled for each costs as much as a small job. This one stays where it
    is when what it was set for is over, and asks when it fires.

    Args:
        ring: Called at a time that was set. Returns the next one that matters, or None.
    """

    def __init__(self, ring: Callable[[], float | None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def set(self, due: float) -> None:
        """Ring at `due`, in seconds on the loop's clock; it may ring sooner, too."""
        if due < self._at:
            self.stop()
            self._timer, self._at = asyncio.get_running_loop().call_at(due, self._rung), due

    def stop(self) -> None:
        """Ring no more, until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, math.inf

    def _rung(self) -> None:
        self._timer, self._at = None, math.inf
        following = self._ring()
        if following is not None:
            self.set(following)
