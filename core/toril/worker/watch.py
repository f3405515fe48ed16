"""Waiting for jobs: the marker that whoever adds a job leaves in the queue."""

from __future__ import annotations

import asyncio
from typing import Final

from toril.connection.marker import MarkerWait
from toril.worker.engine import Engine
from toril.worker.turns import Turns

LONGEST: Final = 5.0
"""Seconds after which an idle worker looks for jobs although no marker has come: a worker that is
frozen or has just died may have taken it."""


class MarkerWatch:
    """Waits for the marker while the engine has a free slot, with a fetch sent behind the wait.

    Args:
        marker: The wait, on a connection of its own.
        turns: Makes the fetch and reads its reply.
        engine: Who gets what came.
        lock: How long a lock lasts, in seconds. Should this process freeze, the wait is to be over
            before its jobs are recovered, or it would take them once more.
    """

    def __init__(self, marker: MarkerWait, turns: Turns, engine: Engine, lock: float) -> None:
        self._marker = marker
        self._turns = turns
        self._engine = engine
        self._longest = min(LONGEST, lock / 4)
        self._wanted = asyncio.Event()
        self._waking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Wait once, and give the engine what comes."""
        self._wanted.set()

    def recall(self) -> None:
        """End the wait under way. The engine gets what comes all the same."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._marker.wake())

    async def run(self) -> None:
        """Wait whenever that is wanted, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                await self._turns.fetch_ahead(self._marker, self._longest, self._engine.came)
        finally:
            if self._waking is not None:
                self._waking.cancel()
