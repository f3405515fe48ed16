"""The part of `bullmq` of PyPI in the comparison; see roles.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from bullmq import Queue, Worker

from tests.benchmarks.peers.roles import PAYLOAD, AsyncPeer, Payload, main

BATCH: Final = 500
"""Jobs of one `addBulk`."""


class BullMQ(AsyncPeer):
    async def open(self) -> None:
        self.queue = Queue("bench", {"connection": self.order.url})
        self.worker: Any = None

    async def add(self, payload: Payload) -> None:
        await self.queue.add("send", payload)

    async def add_many(self, jobs: int) -> None:
        for first in range(0, jobs, BATCH):
            count = min(BATCH, jobs - first)
            await self.queue.addBulk([{"name": "send", "data": PAYLOAD} for _ in range(count)])

    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        async def handler(job: Any, token: str) -> None:
            await handle(job.data)

        process: Any = handler
        options: Any = {
            "connection": self.order.url,
            "concurrency": self.order.concurrency,
            "autorun": False,
        }
        self.worker = Worker("bench", process, options)
        self.running = asyncio.create_task(self.worker.run())

    async def close(self) -> None:
        if self.worker:
            await asyncio.sleep(0.1)  # the finishes of the last jobs
            await self.worker.close(force=True)
            self.running.cancel()
        await self.queue.close()


if __name__ == "__main__":
    main(BullMQ)
