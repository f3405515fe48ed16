"""The events of a worker on their way to the plugins.

A worker does not wait for its plugins; it waits only when they are so far behind that the buffer is
full. Nothing is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from toril.hooks.dispatch import Dispatcher
from toril.job_events import JobEvent

log: Final = logging.getLogger("toril.hooks")

CAPACITY: Final = 10_000
"""So many undelivered events pause the fetching of jobs."""


class EventBuffer:
    """Delivers events in the background, in the order in which they came.

    `put` never waits. Who makes events asks `full` and waits for `room()` before making more.
    """

    def __init__(self, dispatcher: Dispatcher, capacity: int = CAPACITY) -> None:
        self._dispatcher = dispatcher
        self._capacity = capacity
        self._replies: deque[Sequence[JobEvent]] = deque()
        self._pending = 0
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()

    @property
    def pending(self) -> int:
        """Events that are not delivered yet."""
        return self._pending

    @property
    def full(self) -> bool:
        """Whether no more jobs should be fetched for now."""
        return self._pending >= self._capacity

    def put(self, events: Sequence[JobEvent]) -> None:
        """Take the events of one reply."""
        if not events:
            return
        self._replies.append(events)
        self._pending += len(events)
        if self.full:
            self._room.clear()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._deliver(), name="toril-events"
            )

    async def room(self) -> None:
        """Wait until the buffer is not full."""
        await self._room.wait()

    async def _deliver(self) -> None:
        # It ends when there is nothing left and is made anew by the next event, so that an idle
        # worker has no task that nobody ends.
        try:
            while self._replies:
                events = self._replies.popleft()
                await self._dispatcher.publish(events)
                self._pending -= len(events)
                if not self.full:
                    self._room.set()
        finally:
            self._task = None

    async def drain(self, grace: float) -> int:
        """Deliver what is left within `grace` seconds; returns how many events were not.

        Those are lost, as they would be if the process ended here; they are logged.
        """
        task = self._task
        if task is not None:
            await asyncio.wait((task,), timeout=grace)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        lost, self._pending = self._pending, 0
        self._replies.clear()
        self._room.set()
        if lost:
            log.error("%d events were not delivered to the plugins within %g s", lost, grace)
        return lost
