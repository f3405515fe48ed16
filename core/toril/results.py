"""Waiting for a job to end, whether or not it is still there when it has."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from toril.connection.call import Procedure
from toril.duration import duration_text, milliseconds
from toril.errors import JobFailed, JobRemoved, ServerUnavailable, TorilError
from toril.events import QueueEvents
from toril.protocol import reading, streams
from toril.protocol.streams import QueueEvent
from toril.snapshots import JobRef, JobSnapshot, Recalled
from toril.types import Json, Outcome

if TYPE_CHECKING:
    from toril.app import App

log: Final = logging.getLogger("toril.app")

ASK_AGAIN: Final = 5.0
"""Seconds after which a job is asked for again, should its event have been trimmed away."""
_CLOCKS_DIFFER: Final = 60_000
"""Milliseconds by which a producer's clock may be ahead of the server's."""
_PAGE: Final = 500
_ENDS: Final = frozenset({"completed", "failed", "removed"})


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended. `outcome` None: it is gone, and nothing tells. `lost`: its result is.

    Every library stores a result when a job completes, if only `null`: where there is none it was
    taken away afterwards.
    """

    outcome: Outcome | None
    value: Json = None
    reason: str = ""
    lost: bool = False

    def result(self, job: JobSnapshot) -> Json:
        """The value, or the typed error."""
        if self.outcome == "completed":
            if not self.lost:
                return self.value
            raise JobRemoved(
                f"job {job.id!r} of queue {job.queue!r} completed, and its result was not kept",
                queue=job.queue,
                job_id=job.id,
            )
        if self.outcome == "failed":
            raise JobFailed(self.reason, queue=job.queue, job_id=job.id)
        raise JobRemoved(
            f"job {job.id!r} of queue {job.queue!r} is gone, and nothing tells how it ended",
            queue=job.queue,
            job_id=job.id,
        )


def ended(queue_key: str, job: JobSnapshot) -> Procedure[Ended | None]:
    """How the job ended, None if it has not; without an outcome if it is gone.

    The caller listens to the event stream *before* it asks, so that nothing falls between.
    """
    found: reading.FinishedResult = yield reading.finished_result(queue_key, job.id)
    if found.outcome is not None:
        return Ended(found.outcome, found.value, found.reason or "", lost=not found.has_value)
    return None if found.exists else Ended(None)


def recalled(job: JobSnapshot, told: Recalled | None) -> Ended | None:
    """How a job that is gone ended, as a plugin tells it.

    What ended before the job was created was an earlier job of the same id.
    """
    if told is None or told.finished < job.created - _CLOCKS_DIFFER:
        return None
    return Ended(told.outcome, told.result, told.reason or "", lost=not told.has_result)


def streamed(queue_key: str, job: JobSnapshot) -> Procedure[Ended]:
    """How a job that is gone ended, by the event stream from the time it was created."""
    last = Ended(None)
    after = f"{max(0, job.created - _CLOCKS_DIFFER)}-0"
    while page := (yield streams.events_after(queue_key, after, _PAGE)):
        for event in page:
            last = ending(event, job.id) or last
        after = page[-1].id
    return last


def ending(event: QueueEvent, job_id: str) -> Ended | None:
    """What an event tells of the job's end, if anything.

    In a queue whose events tell no values the result is lost.
    """
    if event.job_id != job_id:
        return None
    untold = event.fields.get("values") == "off"
    if event.kind == "completed":
        return Ended("completed", event.fields.get("returnvalue"), lost=untold)
    if event.kind == "failed":
        return Ended("failed", reason=str(event.fields.get("failedReason") or ""), lost=untold)
    return None


def concerns(events: Sequence[QueueEvent], job_id: str) -> bool:
    """Whether to ask for the job: it ended, or went, or nothing has happened for a while."""
    return not events or any(event.job_id == job_id and event.kind in _ENDS for event in events)


class Deadline:
    """How much of a time-out is left, in seconds. Raises `TimeoutError` when nothing is."""

    def __init__(self, job: JobSnapshot, timeout: timedelta | str | None) -> None:
        self._job = job
        self._ms = None if timeout is None else milliseconds(timeout, "timeout")
        self._end = None if self._ms is None else time.monotonic() + self._ms / 1000

    def left(self, most: float) -> float:
        """Seconds to wait now: what is left, but at most `most`."""
        if self._end is None or self._ms is None:
            return most
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"job {self._job.id!r} of queue {self._job.queue!r} has not ended "
                f"within {duration_text(self._ms)}; `explain` tells where it is"
            )
        return min(left, most)


class Results:
    """Who in this App waits for which job: one reader of the event stream per queue."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._readers: dict[tuple[str, str | None], _Reader] = {}

    @property
    def waiting(self) -> int:
        """How many waits listen to events now."""
        return sum(
            len(listeners)
            for reader in self._readers.values()
            if reader.ready
            for listeners in reader.listeners.values()
        )

    async def wait(self, job: JobSnapshot, timeout: timedelta | str | None) -> Json:
        """What the job returned. Raises as `Job.result` does."""
        deadline = Deadline(job, timeout)
        key = self._app.context.key(job.queue, job.prefix)
        async with self._listening(job) as events:
            while True:
                end = await self._end(key, job)
                if end is not None:
                    return end.result(job)
                left = deadline.left(ASK_AGAIN)
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(events.get(), left)
                    if event is None:
                        raise ServerUnavailable(
                            f"the App was closed while job {job.id!r} was waited for"
                        )
                    end = ending(event, job.id)
                    if end is not None and not end.lost:
                        return end.result(job)

    async def _end(self, key: str, job: JobSnapshot) -> Ended | None:
        """How the job ended, None if it has not; also if it is gone and somebody can tell."""
        end = await self._app.perform(ended(key, job))
        if end is None or end.outcome is not None:
            return end
        told = await self._app.runtime.dispatcher.recall(JobRef(job.queue, job.id, job.prefix))
        return recalled(job, told) or await self._app.perform(streamed(key, job))

    @asynccontextmanager
    async def _listening(
        self, job: JobSnapshot
    ) -> AsyncGenerator[asyncio.Queue[QueueEvent | None], None]:
        where, job_id = (job.queue, job.prefix), job.id
        reader = self._readers.get(where)
        if reader is None:
            reader = self._readers[where] = _Reader(QueueEvents(self._app, *where))
        events: asyncio.Queue[QueueEvent | None] = asyncio.Queue()
        listeners = reader.listeners.setdefault(job_id, [])
        listeners.append(events)
        try:
            await reader.started()
            yield events
        finally:
            listeners.remove(events)
            if not listeners:
                reader.listeners.pop(job_id, None)
            if not reader.listeners and self._readers.get(where) is reader:
                del self._readers[where]
                await reader.aclose()

    async def aclose(self) -> None:
        """Stop reading; whoever still waits gets `ServerUnavailable`."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            for listeners in reader.listeners.values():
                for listener in listeners:
                    listener.put_nowait(None)
            await reader.aclose()


class _Reader:
    """Reads one queue's events and hands them to those who wait for a job."""

    def __init__(self, events: QueueEvents) -> None:
        self.listeners: dict[str, list[asyncio.Queue[QueueEvent | None]]] = {}
        self._events = events
        self._starting = asyncio.ensure_future(self._events.start())
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every later event will be seen."""
        return self._task is not None

    async def started(self) -> None:
        """Return when every later event will be seen."""
        await asyncio.shield(self._starting)
        if self._task is None:
            self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for event in self._events:
                if event.kind in _ENDS:
                    for listener in self.listeners.get(event.job_id or "", ()):
                        listener.put_nowait(event)
        except TorilError as error:
            log.warning("events of queue %r cannot be read: %s", self._events.queue, error)

    async def aclose(self) -> None:
        for task in (self._starting, self._task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._events.aclose()
