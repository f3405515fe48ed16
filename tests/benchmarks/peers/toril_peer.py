"""Toril's part of the comparison; see roles.py. Options: what of `CASES` applies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from tests.benchmarks.peers.roles import (
    PAYLOAD,
    AsyncPeer,
    Meter,
    Payload,
    add_in_threads,
    main,
)
from toril import ActiveJob, App, Flow, NewJob, Worker
from toril.plugins import JobCompleted, hookimpl
from toril_plugins import Retention

LIMIT: Final = 1000
FLOWS_AT_ONCE: Final = 100


class Listener:
    """A plugin with one asynchronous event hook."""

    toril_name = "listener"

    @hookimpl
    async def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        await asyncio.sleep(0)


class Toril(AsyncPeer):
    async def open(self) -> None:
        options = self.order.options
        kept = {"below": 10_000_000, "at": LIMIT}.get(options.get("limit", ""))
        said = [Retention(completed=kept)] if kept else []
        self.app = App(
            self.order.url,
            *said,
            block=["cleanup"] if options.get("blocked") else [],
            plugins=[Listener(), "*"] if options.get("hook") else ["*"],
        )
        self.queue = self.app.queue("bench")
        self.workers: list[Worker] = []
        await self.queue.counts()

    async def add(self, payload: Payload) -> None:
        await self.queue.add("send", payload)

    async def add_many(self, jobs: int) -> None:
        await self.queue.add_many([NewJob("send", PAYLOAD) for _ in range(jobs)])

    async def work(self, handle: Callable[[Payload], Awaitable[None]]) -> None:
        async def handler(job: ActiveJob) -> None:
            payload: Any = job.data
            await handle(payload)

        await self.start("bench", handler)

    async def start(self, queue: str, handler: Callable[[ActiveJob], Awaitable[Any]]) -> None:
        timeout = self.order.options.get("timeout")
        worker = self.app.worker(
            queue, handler, concurrency=self.order.concurrency, timeout=timeout
        )
        await worker.__aenter__()
        self.workers.append(worker)

    async def close(self) -> None:
        for worker in self.workers:
            await worker.__aexit__(None, None, None)
        await self.app.aclose()


async def add_threads(peer: Toril) -> dict[str, float]:
    def add() -> dict[str, float]:
        with App(peer.order.url).sync as sync:
            queue = sync.queue("bench")
            return add_in_threads(lambda payload: queue.add("send", payload), peer.order.jobs)

    return await asyncio.to_thread(add)


async def add_flows(peer: Toril) -> dict[str, float]:
    """`jobs` parents, each with as many children as `options` say."""
    children = [Flow("children", "send", PAYLOAD)] * peer.order.options["children"]
    meter = Meter()
    meter.start()
    for first in range(0, peer.order.jobs, FLOWS_AT_ONCE):
        count = min(FLOWS_AT_ONCE, peer.order.jobs - first)
        await peer.app.add_flows(
            [Flow("parents", "bind", PAYLOAD, children=children) for _ in range(count)]
        )
    meter.stop()
    return meter.result()


async def drain_flows(peer: Toril) -> dict[str, float]:
    left, done, meter = peer.order.jobs, asyncio.Event(), Meter()

    started = False

    async def parent(job: ActiveJob) -> None:
        nonlocal left
        left -= 1
        if not left:
            meter.stop()
            done.set()

    async def child(job: ActiveJob) -> None:
        nonlocal started
        if not started:
            started = True
            meter.start()

    await peer.start("children", child)
    await peer.start("parents", parent)
    await done.wait()
    return meter.result()


if __name__ == "__main__":
    main(Toril, {"add_threads": add_threads, "add_flows": add_flows, "drain_flows": drain_flows})
