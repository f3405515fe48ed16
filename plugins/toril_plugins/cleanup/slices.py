"""What all sweeping has in common: slices, led by a lease, with a rest after each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from toril.plugins import ServiceContext


@dataclass(frozen=True, slots=True)
class Pace:
    """How a sweep goes beside others' work.

    Args:
        slice: the most jobs that one script removes, unless somebody reviews or copies them.
        rest: after a script, so many times as long as its call took; less while more jobs finish
            than go.
    """

    slice: int = 10
    rest: float = 15.0


DEFAULT_PACE: Final = Pace()
LEAST_REST: Final = 0.25
"""Times as long as a call: a sweeper that others' finishes outrun does not rest for less."""
RECOVERY: Final = 1.1
"""By so much the rest grows again with each slice that leaves fewer jobs."""


class Rests:
    """The rests of one sweeper."""

    def __init__(self, pace: Pace) -> None:
        self._longest = self._times = pace.rest
        self._kept: int | None = None

    def note(self, kept: int) -> None:
        """So many finished jobs are there now: half the rest if they have become more."""
        if self._kept is not None and kept > self._kept:
            self._times = max(self._times / 2, min(LEAST_REST, self._longest))
        else:
            self._times = min(self._times * RECOVERY, self._longest)
        self._kept = kept

    async def after(self, started: float) -> None:
        """Leave the server alone; `started` is when the call began, of `perf_counter`."""
        await rest(started, self._times)


class LongestScript:
    """The longest call of a script in the sweeps of a queue so far, as this process saw it."""

    def __init__(self) -> None:
        self._ms = 0.0

    @contextmanager
    def timed(self, context: ServiceContext) -> Generator[None]:
        """What is done within is a call of a script."""
        started = time.perf_counter()
        yield
        ms = (time.perf_counter() - started) * 1000
        if ms > self._ms:
            self._ms = ms
            context.gauge("toril_longest_script_ms", ms)


class LeaseLost(Exception):
    """Another process sweeps this queue now."""


async def rest(started: float, times: float = 1.0) -> None:
    """Leave the server alone for so many times as long as it was kept busy.

    `started` is of `perf_counter`. The time of the whole exchange counts, so a busy server, or a
    busy machine, slows its sweeper down.
    """
    await asyncio.sleep((time.perf_counter() - started) * times)
