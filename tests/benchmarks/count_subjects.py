"""What `tests.benchmarks.counts` counts: everyday work with jobs, each in a size that is asked for.

A subject prepares what it needs, and does its work within `bench.counting()`. Its work for so many
jobs is always the same: the clock stands still unless it is moved, and handlers do nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import redis

from toril import ActiveJob, App, Every, Flow, NewJob, Queue
from toril.plugins import ManualClock
from toril_plugins import Retention

PAYLOAD: Final = {"to": "ada@example.org", "text": "x" * 64}
CALLERS: Final = 100
CHILDREN: Final = 10
LIMIT: Final = 50


@dataclass(frozen=True)
class Bench:
    """An App on an empty server. What is done within `counting()` counts."""

    app: App
    client: redis.Redis
    clock: ManualClock
    counting: Callable[[], AbstractContextManager[None]]

    @property
    def queue(self) -> Queue:
        return self.app.queue("q")

    async def drain(self, concurrency: int) -> None:
        """Work off what waits."""
        await self.app.worker("q", noop, concurrency=concurrency).run(burst=True)


async def noop(_job: ActiveJob) -> None:
    """Do nothing."""


async def fail_first(job: ActiveJob) -> None:
    """Fail unless it was tried before."""
    if job.attempt == 1:
        raise ValueError("not yet")


def jobs(number: int) -> list[NewJob]:
    return [NewJob("send", PAYLOAD) for _ in range(number)]


async def add(bench: Bench, number: int) -> None:
    with bench.counting():
        for _ in range(number):
            await bench.queue.add("send", PAYLOAD)


async def add_sync(bench: Bench, number: int) -> None:
    def adds() -> None:
        queue = bench.app.sync.queue("q")
        with bench.counting():
            for _ in range(number):
                queue.add("send", PAYLOAD)

    await asyncio.to_thread(adds)


async def add_many(bench: Bench, number: int) -> None:
    with bench.counting():
        for _ in range(number // CALLERS):
            await bench.queue.add_many(jobs(CALLERS))


async def add_at_once(bench: Bench, number: int) -> None:
    async def callers() -> None:
        adds = [bench.queue.add("send", PAYLOAD) for _ in range(CALLERS)]
        await asyncio.gather(*adds)

    await bench.queue.add("send", PAYLOAD)
    with bench.counting():
        for _ in range(number // CALLERS):
            await callers()


def drain(concurrency: int) -> Callable[[Bench, int], Awaitable[None]]:
    async def drained(bench: Bench, number: int) -> None:
        await bench.queue.add_many(jobs(number))
        with bench.counting():
            await bench.drain(concurrency)

    return drained


def kept(limit: int, before: int) -> Callable[[Bench, int], Awaitable[None]]:
    """Drain a queue that keeps the newest `limit` finished jobs, and has kept `before`."""

    async def drained(bench: Bench, number: int) -> None:
        await bench.queue.set(Retention(completed=limit))
        await bench.queue.add_many(jobs(before))
        await bench.drain(10)
        await bench.queue.add_many(jobs(number))
        with bench.counting():
            await bench.drain(10)
        assert await bench.queue.counts("completed") == {"completed": min(limit, before + number)}

    return drained


async def flows(bench: Bench, number: int) -> None:
    children = [Flow("q", "part", PAYLOAD) for _ in range(CHILDREN)]
    trees = [Flow("p", "whole", PAYLOAD, children=children) for _ in range(number)]
    with bench.counting():
        await bench.app.add_flows(trees)
        await bench.drain(10)
        await bench.app.worker("p", noop, concurrency=10).run(burst=True)
    assert await bench.app.queue("p").counts("completed") == {"completed": number}


async def retry(bench: Bench, number: int) -> None:
    await bench.queue.add_many([NewJob("send", PAYLOAD, attempts=2) for _ in range(number)])
    with bench.counting():
        await bench.app.worker("q", fail_first, concurrency=10).run(burst=True)


async def delayed(bench: Bench, number: int) -> None:
    with bench.counting():
        await bench.queue.add_many([NewJob("send", PAYLOAD, delay="1h") for _ in range(number)])
        bench.clock.advance("2h")
        await bench.drain(10)


async def prioritised(bench: Bench, number: int) -> None:
    each = [NewJob("send", PAYLOAD, priority=1 + place % 10) for place in range(number)]
    with bench.counting():
        await bench.queue.add_many(each)
        await bench.drain(10)


async def schedule(bench: Bench, number: int) -> None:
    await bench.queue.schedule("tick", Every("1s"), "send", PAYLOAD)
    run = asyncio.Event()

    async def tell(_job: ActiveJob) -> None:
        run.set()

    async with bench.app.worker("q", tell) as worker:
        await run.wait()
        with bench.counting():
            for _ in range(number):
                run.clear()
                bench.clock.advance("1s")
                worker.look()
                await run.wait()


@dataclass(frozen=True)
class Subject:
    """Work with jobs, in two sizes: what the greater one takes more is what a job takes."""

    name: str
    sizes: tuple[int, int]
    work: Callable[[Bench, int], Awaitable[None]]

    @property
    def jobs(self) -> int:
        small, great = self.sizes
        return great - small


SUBJECTS: Final[Sequence[Subject]] = (
    Subject("add one", (20, 120), add),
    Subject("add one, sync", (20, 120), add_sync),
    Subject("add_many, 100 a call", (100, 500), add_many),
    Subject("add, 100 callers at once", (100, 500), add_at_once),
    Subject("drain, concurrency 1", (20, 120), drain(1)),
    Subject("drain, concurrency 10", (100, 500), drain(10)),
    Subject("drain, concurrency 100", (400, 1000), drain(100)),
    Subject("drain, a limit not reached", (100, 500), kept(1_000_000, 0)),
    Subject("drain, at a limit", (100, 500), kept(LIMIT, 2 * LIMIT)),
    Subject("flow of 11, add and drain", (10, 50), flows),
    Subject("retry", (100, 300), retry),
    Subject("delayed, add and drain", (100, 500), delayed),
    Subject("prioritised, add and drain", (100, 500), prioritised),
    Subject("run of a schedule", (10, 60), schedule),
)
