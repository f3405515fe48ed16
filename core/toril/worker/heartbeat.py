"""The sign of life that a worker leaves in its queue, for whoever lists workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from toril.connection.conversation import Patience
from toril.connection.execute import Executor
from toril.errors import ConfigurationError, ServerError
from toril.protocol import inspecting
from toril.protocol.inspecting import Beat

log = logging.getLogger("toril.worker")

PERIOD: Final = 10.0
"""Seconds between two signs of life."""
_PATIENCE: Final = Patience(total=1.0)


class Heartbeat:
    """Tells what a worker does, again and again. That it cannot be told harms nobody.

    Args:
        executor: Reaches the server.
        queue: The queue's key.
        tell: Makes what is told.
    """

    def __init__(self, executor: Executor, queue: str, tell: Callable[[], Beat]) -> None:
        self._executor = executor
        self._queue = queue
        self._tell = tell
        self._due = asyncio.Event()

    def soon(self) -> None:
        """There is news: tell it."""
        self._due.set()

    async def run(self) -> None:
        """Tell at once, and then until cancelled."""
        while True:
            self._due.clear()
            await self.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._due.wait()

    async def beat(self) -> None:
        """Tell once."""
        try:
            await self._executor.run(inspecting.beat(self._queue, self._tell()), _PATIENCE)
        except (ServerError, ConfigurationError) as error:
            log.debug("a sign of life could not be given: %s", error)

    async def end(self) -> None:
        """Tell that the worker has ended."""
        told = self._tell()
        with contextlib.suppress(ServerError, ConfigurationError):
            call = inspecting.end_of_beats(self._queue, told.id, told.at)
            await self._executor.run(call, _PATIENCE)
