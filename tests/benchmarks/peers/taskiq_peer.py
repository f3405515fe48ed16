"""taskiq's part of the comparison; see roles.py. Option `stream`: acknowledged, from a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from tests.benchmarks.peers.roles import AsyncPeer, Payload, main


class Taskiq(AsyncPeer):
    async def open(self) -> None:
        url, streams = self.order.url, self.order.options.get("stream")
        self.broker: Any = (
            RedisStreamBroker(url, consumer_id="0") if streams else ListQueueBroker(url)
        )
        self.broker.is_worker_process = self.order.role in {"drain", "serve", "hold"}

        async def send(payload: Payload) -> None:
            await self.handle(payload)

        self.task: Any = self.broker.register_task(send, "send")
        await self.broker.startup()

    async def add(self, payload: Payload) -> None:
        await self.task.kiq(payload)

    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        self.handle = handle
        limit = self.order.concurrency
        running = run_receiver_task(self.broker, max_async_tasks=limit, max_prefetch=limit)
        self.running = asyncio.create_task(running)


if __name__ == "__main__":
    main(Taskiq)
