"""A stored job for code without an event loop: `Job` without `await`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from toril.connection.blocking import SyncStreamRead
from toril.connection.call import Procedure, only
from toril.errors import JobNotFound
from toril.explaining import explain
from toril.hooks.context import Fact
from toril.job import R, StoredJob, plain
from toril.job_operations import JobOperations
from toril.protocol import streams
from toril.protocol.dependencies import Dependencies, DependencyKind, DependencyPage
from toril.removals import Erasure, Removals
from toril.results import ASK_AGAIN, Deadline, Ended, concerns, ended, ending, recalled, streamed
from toril.snapshots import JobSnapshot
from toril.types import Json, State

if TYPE_CHECKING:
    from toril.sync import SyncApp

T = TypeVar("T")

_EVENTS: Final = 200
"""Events read at once."""


class SyncJob(StoredJob, Generic[R]):
    """A job, as `SyncQueue.add` returns it. Every method is that of `Job`, without `await`."""

    def __init__(
        self, app: SyncApp, snapshot: JobSnapshot, decode: Callable[[Json], R] | None = None
    ) -> None:
        super().__init__(snapshot)
        self._app = app
        self._decode = decode or cast("Callable[[Json], R]", plain)

    @cached_property
    def _operations(self) -> JobOperations:
        job = self.snapshot
        return JobOperations(self._app.runtime.context, job.queue, job.id, job.prefix)

    def _perform(self, procedure: Procedure[T]) -> T:
        queues = (self.queue,) if self.snapshot.prefix is None else ()
        return self._app.perform(procedure, *queues)

    def refresh(self) -> SyncJob[R]:
        """Read the job again."""
        self.snapshot = self._perform(self._operations.read())
        return self

    def state(self) -> State:
        """In which state it is now."""
        return self._perform(self._operations.state())

    def result(self, *, timeout: timedelta | str | None = None) -> R:
        """Wait for the job to end, and return what its handler returned."""
        key = self._app.runtime.context.key(self.queue, self.snapshot.prefix)
        deadline = Deadline(self.snapshot, timeout)
        after: str = self._perform(only(streams.last_event_id(key)))
        end = self._end(key)
        reader = SyncStreamRead(self._app.runtime.sync_executor, f"{key}:events")
        try:
            while end is None:
                block = deadline.left(ASK_AGAIN)
                milliseconds = max(1, round(block * 1000))
                command, parse = streams.wait_for_events({key: after}, milliseconds, _EVENTS)
                events = parse(reader.read(command, block)).get(key, ())
                for event in events:
                    after = event.id
                    told = ending(event, self.id)
                    if told is not None and not told.lost:
                        end = told
                if end is None and concerns(events, self.id):
                    end = self._end(key)
        finally:
            reader.close()
        return self._decode(end.result(self.snapshot))

    def _end(self, key: str) -> Ended | None:
        """How the job ended, None if it has not; also if it is gone and somebody can tell."""
        end = self._perform(ended(key, self.snapshot))
        if end is None or end.outcome is not None:
            return end
        told = self._app.runtime.recall_sync(self.ref)
        return recalled(self.snapshot, told) or self._perform(streamed(key, self.snapshot))

    def explain(self) -> list[Fact]:
        """What is known about its present and future, by Toril and by the plugins."""
        runtime = self._app.runtime
        try:
            facts = self._perform(explain(runtime.context, self.ref))
        except JobNotFound:
            facts = runtime.explain_gone_sync(self.ref)
            if not facts:
                raise
            return facts
        return facts + runtime.explain_sync(self.ref)

    def retry(self, *, reset_attempts: bool = False, reset_started: bool = False) -> None:
        """Let the finished job run again; see `Job.retry`."""
        self._perform(
            self._operations.retry(reset_attempts=reset_attempts, reset_started=reset_started)
        )

    def promote(self) -> None:
        """Let the delayed job run now."""
        self._perform(self._operations.promote())

    def change_delay(self, delay: timedelta | str | datetime) -> None:
        """Let the delayed job run so long from now, or at that moment."""
        self._perform(self._operations.change_delay(delay))

    def change_priority(self, priority: int, *, lifo: bool = False) -> None:
        """Give the job another priority; see `Job.change_priority`."""
        self._perform(self._operations.change_priority(priority, lifo=lifo))

    def unlink(self) -> bool:
        """Take the job off its parent; see `Job.unlink`."""
        return self._perform(self._operations.unlink())

    def remove_unprocessed_children(self) -> Removals:
        """Remove its children that have not ended; see `Job.remove_unprocessed_children`."""
        return self._perform(self._operations.remove_unprocessed_children())

    def remove(self, *, children: bool = True) -> bool:
        """Remove the job, with all jobs below it unless `children` is False."""
        return self._perform(self._operations.remove(children=children))

    def remove_deduplication(self) -> bool:
        """Close its deduplication window; see `Job.remove_deduplication`."""
        return self._perform(self._operations.remove_deduplication(self.snapshot.deduplication_id))

    def erase(self) -> Erasure:
        """Erase the job and everything that names it; see `Job.erase`."""
        return self._app.erase(self.ref, self.snapshot.parent)

    def update(self, data: Json) -> None:
        """Replace its payload."""
        self._perform(self._operations.update(data))

    def progress(self, value: Json) -> None:
        """Report its progress, any JSON value."""
        self._perform(self._operations.progress(value))

    def log(self, line: str) -> int:
        """Add a line to its log."""
        return self._perform(self._operations.log(line, self.keep_logs))

    def logs(self, *, limit: int | None = None, skip: int = 0) -> tuple[str, ...]:
        """Its log lines, oldest first; see `Job.logs`."""
        return self._perform(self._operations.logs(limit, skip))

    def clear_logs(self, *, keep: int = 0) -> None:
        """Remove its log lines but for the newest `keep`."""
        self._perform(self._operations.clear_logs(keep))

    def children(self) -> Dependencies:
        """Its children, by what became of them."""
        return self._perform(self._operations.children())

    def children_counts(self) -> dict[DependencyKind, int]:
        """How many children it has of each kind."""
        return self._perform(self._operations.children_counts())

    def children_page(
        self, kind: DependencyKind, *, cursor: str = "0", count: int = 200
    ) -> DependencyPage:
        """Some of its children of one kind; see `Job.children_page`."""
        return self._perform(self._operations.children_page(kind, cursor, count))

    def parent(self) -> SyncJob | None:
        """The job that waits for it; None if there is none, or it is gone."""
        found = self._perform(self._operations.parent(self.snapshot.parent))
        return None if found is None else SyncJob(self._app, found)
