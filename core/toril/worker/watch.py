"""Waiting for jobs: the marker that whoever adds a job leaves in the queue."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from toril.clock import Clock
from toril.connection.blocking import Marker, MarkerWait
from toril.errors import ServerError
from toril.worker.engine import Engine

log = logging.getLogger("toril.worker")

LONGEST: Final = 5.0
"""Seconds after which an idle worker looks for jobs although no marker has come: a worker that is
frozen or has just died may have taken it."""
_SOON: Final = 1.0
"""Milliseconds: what is due within them is due now."""


class MarkerWatch:
    """Takes the marker while the engine waits with free slots, and tells it when to look.

    Args:
        marker: The wait, on a connection of its own.
        engine: Who is told.
        clock: For the times at which delayed jobs are due.
        longest: Seconds after which the engine is told without a marker.
    """

    def __init__(
        self, marker: MarkerWait, engine: Engine, clock: Clock, longest: float = LONGEST
    ) -> None:
        self._marker = marker
        self._engine = engine
        self._clock = clock
        self._longest = longest
        self._wanted = asyncio.Event()
        self._ending = False

    def begin(self) -> None:
        """The engine waits: watch, unless that is being done already."""
        self._wanted.set()

    async def run(self) -> None:
        """Watch whenever that is wanted, until `end`."""
        while not self._ending:
            await self._wanted.wait()
            await self._look()

    async def _look(self) -> None:
        taken = await self._marker.wait(self._longest)
        if taken is None:
            self._tell()
        elif taken.score - self._clock.now_ms() > _SOON:
            self._engine.expect(int(taken.score))
        elif self._engine.wants_jobs:
            self._tell()
        else:
            self._wanted.clear()
            await self._put_back(taken)

    def _tell(self) -> None:
        self._wanted.clear()
        self._engine.look()

    async def _put_back(self, taken: Marker) -> None:
        try:
            await self._marker.put_back(taken)
        except ServerError as error:
            log.warning("a marker could not be put back; a job may wait a little: %s", error)

    async def end(self) -> None:
        """End `run`, and the wait under way."""
        self._ending = True
        self._wanted.set()
        await self._marker.wake()
