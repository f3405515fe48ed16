"""arq's part of the comparison; see roles.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from tests.benchmarks.peers.roles import AsyncPeer, Payload, main


class Arq(AsyncPeer):
    async def open(self) -> None:
        self.settings = RedisSettings.from_dsn(self.order.url)
        self.pool = await create_pool(self.settings)

    async def add(self, payload: Payload) -> None:
        await self.pool.enqueue_job("send", payload)

    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        async def send(ctx: Any, payload: Payload) -> None:
            await handle(payload)

        worker = Worker(
            [func(send, name="send")],
            redis_settings=self.settings,
            max_jobs=self.order.concurrency,
            poll_delay=0.01,
            handle_signals=False,
        )
        self.running = asyncio.create_task(worker.async_run())


if __name__ == "__main__":
    main(Arq)
