"""What all sweeping has in common: slices, led by a lease, at most half of the time."""

from __future__ import annotations

import asyncio
import time


class LeaseLost(Exception):
    """Another process sweeps this queue now."""


async def rest(started: float) -> None:
    """Leave the server alone for as long as it was kept busy; `started` is of `perf_counter`."""
    await asyncio.sleep(time.perf_counter() - started)
