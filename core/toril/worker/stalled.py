"""Looking for jobs whose worker vanished, and putting them back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from toril.errors import ServerError
from toril.protocol.locking import StalledReport

log = logging.getLogger("toril.worker")

_AFTER_ERROR: Final = 5.0
"""Seconds until the next try after one that failed."""


class StalledCheck:
    """Checks a queue again and again; how often all workers together do so is kept in the queue.

    Args:
        queue: The queue's name.
        check: Carries out one check and tells the plugins.
        interval: Seconds between two checks.
    """

    def __init__(
        self, queue: str, check: Callable[[], Awaitable[StalledReport]], interval: float
    ) -> None:
        self._queue = queue
        self._check = check
        self._interval = interval

    async def run(self) -> None:
        """Check at once, and then until cancelled."""
        while True:  # noqa: ASYNC110 - there is no event to wait for, only the time
            await asyncio.sleep(await self.run_once())

    async def run_once(self) -> float:
        """Check, if that is due. Returns the seconds until the next check."""
        try:
            report = await self._check()
        except ServerError as error:
            log.warning("queue %s: the stalled check failed: %s", self._queue, error)
            return min(self._interval, _AFTER_ERROR)
        if report.recovered:
            log.warning(
                "queue %s: %d jobs whose worker vanished were put back, %d of them to be failed",
                self._queue, report.recovered, report.failing,
            )  # fmt: skip
        for id_ in report.dropped:
            log.warning("job %s/%s does not exist any more; its id was dropped", self._queue, id_)
        return min(self._interval, max(report.next_in_ms / 1000, 0.01))
