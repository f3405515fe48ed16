"""A stage for transitions: producer, worker and operator, and what each of them was told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import redis.asyncio

import toril_lua
from toril import ActiveJob, App, Job, Setting, Worker, hookimpl
from toril.plugins import JobEvent, JobRef

DEADLINE = 20.0  # seconds for anything that is waited for

Told = tuple[str, str, JobEvent]
"""Process, hook, event."""


class Recorder:
    """A plugin that notes every event, together with the process it runs in."""

    def __init__(self, process: str, told: list[Told]) -> None:
        self._process = process
        self._told = told

    def _note(self, hook: str, events: Sequence[JobEvent]) -> None:
        self._told += [(self._process, hook, event) for event in events]

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[Any]) -> None:
        self._note("toril_jobs_saved", events)

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[Any]) -> None:
        self._note("toril_jobs_completed", events)

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[Any]) -> None:
        self._note("toril_jobs_failed", events)

    @hookimpl
    def toril_jobs_retried(self, events: Sequence[Any]) -> None:
        self._note("toril_jobs_retried", events)

    @hookimpl
    def toril_jobs_stalled(self, events: Sequence[Any]) -> None:
        self._note("toril_jobs_stalled", events)

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[Any]) -> None:
        self._note("toril_jobs_removed", events)


class Stage:
    """Three Apps on one server, as three processes would have them.

    A scenario prepares, calls `mark`, performs its transition, and names the job it watches.
    `gate` holds up handlers until the curtain falls.
    """

    def __init__(self, url: str) -> None:
        # Typed loosely: redis-py's own types say of every reply that it may be anything.
        self.raw: Any = redis.asyncio.Redis.from_url(url, decode_responses=True)
        self._bytes: Any = redis.asyncio.Redis.from_url(url)
        self.told: list[Told] = []
        self.gate = asyncio.Event()
        self.marked = asyncio.Event()
        self._adding = 0
        self._marks: dict[str, str] = {}
        self._stack = AsyncExitStack()
        self.producer, self.worker, self.operator = (
            App(
                url,
                plugins=[Recorder(process, self.told), "*"],
                config={"cleanup": {"period": "100ms"}},
            )
            for process in ("producer", "worker", "operator")
        )

    async def __aenter__(self) -> Self:
        await self.raw.flushall()
        for app in (self.producer, self.worker, self.operator):
            await self._stack.enter_async_context(app)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self._stack.aclose()
        await self.raw.aclose()
        await self._bytes.aclose()

    async def mark(self) -> None:
        """What comes after this belongs to the transition."""
        while self._adding:  # a worker may have the job before its producer's hooks are told
            await asyncio.sleep(0.001)
        self.told.clear()
        await self._bytes.slowlog_reset()
        for key in await self.raw.keys("bull:*:events"):
            self._marks[key] = (await self.raw.xrevrange(key, count=1))[0][0]
        self.marked.set()

    async def add(
        self, name: str = "job", data: Any = None, *settings: Setting, **options: Any
    ) -> Job:
        self._adding += 1
        try:
            return await self.producer.queue("stage").add(name, data, *settings, **options)
        finally:
            self._adding -= 1

    async def find(self, job: Job) -> Job:
        """The job as the operator has it."""
        found = await self.operator.queue(job.queue).get(job.id)
        assert found is not None
        return found

    async def start(
        self,
        handler: Callable[[ActiveJob], Awaitable[Any]],
        *settings: Setting,
        queue: str = "stage",
        **options: Any,
    ) -> Worker:
        """Run a worker until the curtain falls."""
        worker = self.worker.worker(queue, handler, *settings, **options)
        return await self._stack.enter_async_context(worker)

    async def finish(self, job: Job, handler: Callable[[ActiveJob], Awaitable[Any]]) -> None:
        """Let a worker finish the job, and stop it."""
        async with self.worker.worker(job.queue, handler):
            await self.until(lambda: self.state(job), "completed", "failed")

    async def state(self, job: Job) -> str:
        return await self.operator.queue(job.queue).state(job.id)

    async def until(self, look: Callable[[], Awaitable[str]], *wanted: str) -> None:
        """Wait until something is one of these."""
        end = time.monotonic() + DEADLINE
        while (seen := await look()) not in wanted:
            assert time.monotonic() < end, f"{seen!r}, not {wanted}"
            await asyncio.sleep(0.01)

    async def stream(self, job: JobRef, wanted: Sequence[str]) -> list[str]:
        """The events about the job since the mark: waits until there are as many as wanted."""
        key = f"bull:{job.queue}:events"
        after = self._marks.get(key)
        end = time.monotonic() + DEADLINE
        while True:
            entries = await self.raw.xrange(key, f"({after}" if after else "-")
            seen = [
                fields["event"]
                for _, fields in entries
                if fields.get("jobId", job.id if fields["event"] in wanted else None) == job.id
            ]
            if len(seen) >= len(wanted) or time.monotonic() > end:
                return seen
            await asyncio.sleep(0.01)

    async def hooks(self, job: JobRef, count: int) -> None:
        """Wait until so many hooks have been told about the job."""
        end = time.monotonic() + DEADLINE
        while len(self.about(job)) < count and time.monotonic() < end:
            await asyncio.sleep(0.01)

    def about(self, job: JobRef) -> list[Told]:
        """What was told about the job since the mark."""
        return [
            told for told in self.told if (told[2].job.queue, told[2].job.id) == (job.queue, job.id)
        ]

    async def scripts(self) -> set[str]:
        """The names of the scripts that ran since the mark."""
        commands = [entry["command"].split() for entry in await self._bytes.slowlog_get(-1)]
        shas = {words[1] for words in commands if words[0].upper() == b"EVALSHA"}
        texts = [
            (await self._bytes.execute_command("SCRIPT", "SHOW", sha)).decode() for sha in shas
        ]
        return {
            name
            for name in (*toril_lua.names(), "plugin")
            if any(f"-- {_first_line(name)}\n" in text for text in texts)
        }


def _first_line(name: str) -> str:
    return toril_lua.header(name).purpose.splitlines()[0]
