"""Two libraries on one server: one produces, one works, and both tell what they see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.driver import Driver

DEADLINE = 10.0  # seconds


class Duo:
    """A producer and a worker on an emptied server."""

    def __init__(self, producer: Driver, worker: Driver) -> None:
        self.producer = producer
        self.worker = worker

    def has(self, label: str) -> bool:
        return label in {self.producer.label, self.worker.label}

    async def settled(self, queue: str, id: str, *states: str) -> dict[str, Any]:
        """The job as both read it, when the worker's side finds it in one of the states."""

        async def there() -> bool:
            job = await self.worker.job(queue, id)
            return job is not None and job["state"] in states

        await eventually(f"{id} is {' or '.join(states)}", there)
        by_worker = await self.worker.job(queue, id)
        by_producer = await self.producer.job(queue, id)
        assert by_producer == by_worker
        assert by_worker is not None
        return by_worker


async def eventually(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.01)
