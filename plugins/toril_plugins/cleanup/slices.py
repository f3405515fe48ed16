"""What all sweeping has in common: slices, led by a lease, with a rest after each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Pace:
    """How a sweep goes beside others' work.

    Args:
        slice: the most jobs that one script removes, unless somebody reviews or copies them.
        rest: after a script, so many times as long as its call took.
    """

    slice: int = 10
    rest: float = 1.0


DEFAULT_PACE: Final = Pace()


class LeaseLost(Exception):
    """Another process sweeps this queue now."""


async def rest(started: float, times: float = 1.0) -> None:
    """Leave the server alone for so many times as long as it was kept busy.

    `started` is of `perf_counter`. The time of the whole exchange counts, so a busy server, or a
    busy machine, slows its sweeper down.
    """
    await asyncio.sleep((time.perf_counter() - started) * times)
