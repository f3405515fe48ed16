"""A place to try cleanup in: an App with a clock that moves by hand, one queue, and its sweeper."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis

from toril import ActiveJob, App, NewJob, Queue, Setting, Unrecoverable, hookimpl
from toril.plugins import JobRemoved, JobSnapshot, ManualClock
from toril_plugins.testing.base import WITHOUT_RESTS

START = 1_790_000_000_000
"""When the clock of a test stands if it says nothing else, in milliseconds since the epoch."""


class Removed:
    """A plugin that notes what was removed, and by which rule."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, str | None]] = []
        self.snapshots: list[JobSnapshot] = []

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.jobs += [(event.job.id, event.rule) for event in events]
        self.snapshots += [event.job for event in events]


async def work(job: ActiveJob) -> Any:
    """Completes, unless the job's name asks for another end."""
    if job.name == "fail":
        raise Unrecoverable("as asked")
    return job.data


async def finish_jobs(app: App, *jobs: NewJob) -> Queue:
    """Let a worker finish jobs of the queue `mail`; those called `bad` fail."""

    async def handle(job: ActiveJob) -> None:
        if job.name == "bad":
            raise ValueError("bad")

    queue = app.queue("mail")
    await queue.add_many(jobs)
    await app.worker("mail", handle).run(burst=True)
    return queue


class Place:
    """An App on the test's server, with a clock that moves by hand."""

    def __init__(self, app: App, clock: ManualClock, removed: Removed) -> None:
        self.app = app
        self.clock = clock
        self.removed = removed
        self.queue = app.queue("q")

    async def run(self, *settings: Setting) -> None:
        """Work off what waits, with a worker that says `settings`."""
        await self.app.worker("q", work, *settings, concurrency=10).run(burst=True)

    async def run_batches(self) -> None:
        """The same with as many jobs in each call to the server as it takes."""
        await self.app.worker("q", work, concurrency=100).run(burst=True)

    async def sweep(self, later: str = "0s") -> None:
        """One sweep, that much later."""
        self.clock.advance(later)
        assert await self.app.run_services("q")

    async def finish(self, *ids: str, name: str = "do", settings: Sequence[Setting] = ()) -> None:
        """Finish jobs one after the other, a second apart."""
        for each in ids:
            await self.queue.add(name, {"c": each[0]}, *settings, id=each)
            self.clock.advance("1s")
            await self.run()

    async def kept(self, state: Any = "completed") -> set[str]:
        """The ids that are there in a state."""
        return {job.id async for job in self.queue.jobs(state)}


@asynccontextmanager
async def place(
    url: str,
    *settings: Setting,
    plugins: Sequence[object] = (),
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> AsyncGenerator[Place]:
    """A place whose application says `settings`."""
    clock, removed = ManualClock(), Removed()
    every = [removed, *plugins, "*"]
    config = {**WITHOUT_RESTS, **(config or {})}
    async with App(url, *settings, plugins=every, clock=clock, config=config) as app:
        yield Place(app, clock, removed)


def foreign_finish(
    raw: redis.Redis,
    *ids: str,
    at: int,
    state: str = "completed",
    opts: Any = None,
    data: Any = None,
    **fields: str,
) -> None:
    """Jobs as a worker of another library leaves them."""
    stored: dict[Any, Any] = {
        "name": "do",
        "data": json.dumps(data),
        "opts": json.dumps(opts or {}),
        "timestamp": at,
        "finishedOn": at,
        **fields,
    }
    pipe = raw.pipeline(transaction=False)
    for each in ids:
        pipe.hset(f"bull:q:{each}", mapping=stored)
        pipe.zadd(f"bull:q:{state}", {each: at})
    pipe.execute()


def keys_of(raw: redis.Redis, id: str) -> list[str]:
    """The keys of one job."""
    return sorted(key for key in raw.scan_iter("bull:q:*") if key.split(":")[2] == id)


def entries(raw: redis.Redis) -> dict[str, list[str]]:
    """What cleanup has written down about jobs below its keys, by key."""
    found: dict[str, list[str]] = {}
    for key in raw.scan_iter("bull:q:toril:cleanup:*"):
        if raw.type(key) == "stream":  # the journal
            continue
        members: Any = raw.hkeys(key) if raw.type(key) == "hash" else raw.zrange(key, 0, -1)
        found[key.removeprefix("bull:q:toril:cleanup:")] = sorted(members)
    return found
