"""streaQ's part of the comparison; see roles.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from streaq import Worker

from tests.benchmarks.peers.roles import PAYLOAD, AsyncPeer, Payload, main

BATCH = 500
"""Jobs of one `enqueue_many`."""


class Streaq(AsyncPeer):
    async def open(self) -> None:
        self.worker: Any = Worker(
            redis_url=self.order.url, concurrency=self.order.concurrency, handle_signals=False
        )

        async def send(payload: Payload) -> None:
            await self.handle(payload)

        self.task: Any = self.worker.task(send, name="send")
        if self.order.role not in {"drain", "serve", "hold"}:
            await self.worker.__aenter__()

    async def add(self, payload: Payload) -> None:
        await self.task.enqueue(payload)

    async def add_many(self, jobs: int) -> None:
        for first in range(0, jobs, BATCH):
            count = min(BATCH, jobs - first)
            await self.worker.enqueue_many([self.task.enqueue(PAYLOAD) for _ in range(count)])

    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        self.handle = handle
        self.running = asyncio.create_task(self.worker.run_async())


if __name__ == "__main__":
    main(Streaq)
