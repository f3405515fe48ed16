"""saq's part of the comparison; see roles.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from saq import Queue, Worker

from tests.benchmarks.peers.roles import AsyncPeer, Payload, main


class Saq(AsyncPeer):
    async def open(self) -> None:
        self.queue = Queue.from_url(self.order.url)
        await self.queue.connect()

    async def add(self, payload: Payload) -> None:
        await self.queue.enqueue("send", payload=payload)

    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        async def send(ctx: Any, *, payload: Payload) -> None:
            await handle(payload)

        worker: Any = Worker(self.queue, [("send", send)], concurrency=self.order.concurrency)
        self.running = asyncio.create_task(worker.start())


if __name__ == "__main__":
    main(Saq)
