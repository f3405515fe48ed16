"""How long handlers may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from toril.alarm import Alarm
from toril.worker.active_job import ActiveJob


class TimeLimits:
    """The limits of the jobs that run.

    Args:
        over: Called with a job whose time is up, and its limit in milliseconds.
    """

    def __init__(self, over: Callable[[ActiveJob, int], object]) -> None:
        self._over = over
        self._limits: dict[ActiveJob, tuple[float, int]] = {}
        self._alarm = Alarm(self._look)

    def begin(self, job: ActiveJob, limit: int) -> None:
        """From now on the job may run for `limit` milliseconds."""
        due = asyncio.get_running_loop().time() + limit / 1000
        self._limits[job] = due, limit
        self._alarm.set(due)

    def end(self, job: ActiveJob) -> None:
        """The job runs no more."""
        self._limits.pop(job, None)

    def close(self) -> None:
        """Look no more."""
        self._alarm.stop()

    def _look(self) -> float | None:
        now = asyncio.get_running_loop().time()
        for job, (due, limit) in list(self._limits.items()):
            if due <= now:
                del self._limits[job]
                self._over(job, limit)
        return min((due for due, _ in self._limits.values()), default=None)
