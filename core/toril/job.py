"""A stored job: looking at it, waiting for it, and acting on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from toril.connection.call import Procedure
from toril.errors import JobNotFound
from toril.explaining import explain, gone_facts
from toril.hooks.context import Fact
from toril.job_operations import JobOperations
from toril.protocol.dependencies import Dependencies, DependencyKind, DependencyPage
from toril.removals import Erasure, Removals
from toril.snapshots import JobRef, JobSnapshot
from toril.types import Json, State

if TYPE_CHECKING:
    from toril.app import App

T = TypeVar("T")
if TYPE_CHECKING:
    import typing_extensions

    R = typing_extensions.TypeVar("R", default=Json)
else:  # the type checkers know it; nothing else needs its default
    R = TypeVar("R")


class StoredJob:
    """What the job of both faces have in common: how the job was when it was last read."""

    def __init__(self, snapshot: JobSnapshot) -> None:
        self.snapshot = snapshot
        """The job as it was when it was last read, with everything that is stored of it."""
        self.duplicate = snapshot.duplicate
        """`add` returned it for a job that was not added: one with its id, or its deduplication."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.queue}/{self.id} {self.name!r}>"

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self.snapshot.queue

    @property
    def id(self) -> str:
        """Its id."""
        return self.snapshot.id

    @property
    def ref(self) -> JobRef:
        """Queue and id, and the prefix if it is not the App's."""
        return JobRef(self.queue, self.id, self.snapshot.prefix)

    @property
    def name(self) -> str:
        """What kind of job it is."""
        return self.snapshot.name

    @property
    def data(self) -> Json:
        """The payload."""
        return self.snapshot.data

    @property
    def attempts_made(self) -> int:
        """Attempts that had ended when it was last read."""
        return self.snapshot.attempts_made

    @property
    def attempts_started(self) -> int:
        """How often it had been picked up when it was last read."""
        return self.snapshot.attempts_started

    @property
    def processed_by(self) -> str | None:
        """The name of the worker that picked it up last, if it has one."""
        return self.snapshot.processed_by

    @property
    def keep_logs(self) -> int | None:
        """How many of its log lines are kept; None: all."""
        keep = self.snapshot.opts.get("keepLogs")
        return keep if isinstance(keep, int) else None

    @property
    def reason(self) -> str | None:
        """The message of its last failure, as last read."""
        return self.snapshot.reason


def plain(result: Json) -> Any:
    """The result of a job that is of no task: as it is."""
    return result


class Job(StoredJob, Generic[R]):
    """A job of an App, as `Queue.add` and `Queue.get` return it.

    The properties tell how it was when it was last read; `refresh` reads it again. `R` is the type
    of its result: JSON, unless it is the job of a task.
    """

    def __init__(
        self, app: App, snapshot: JobSnapshot, decode: Callable[[Json], R] | None = None
    ) -> None:
        super().__init__(snapshot)
        self._app = app
        self._decode: Callable[[Json], R] = decode or plain

    @cached_property
    def _operations(self) -> JobOperations:  # most jobs that are added are not looked at again
        job = self.snapshot
        return JobOperations(self._app.context, job.queue, job.id, job.prefix)

    async def _perform(self, procedure: Procedure[T]) -> T:
        queues = (self.queue,) if self.snapshot.prefix is None else ()
        return await self._app.perform(procedure, *queues)

    async def refresh(self) -> Job[R]:
        """Read the job again. Raises `JobNotFound` if it is gone."""
        self.snapshot = await self._perform(self._operations.read())
        return self

    async def state(self) -> State:
        """In which state it is now; `unknown` if it is in none."""
        return await self._perform(self._operations.state())

    async def result(self, *, timeout: timedelta | str | None = None) -> R:
        """Wait for the job to end, and return what its handler returned.

        Of a job that has been removed since, plugins are asked (`toril_recall_job`), and if none
        knows it, it is looked up in the queue's event stream.

        Args:
            timeout: How long to wait at most (`"10s"`); None: as long as it takes.

        Raises:
            JobFailed: It failed for good.
            JobRemoved: It is gone, and nothing tells how it ended, or what its result was; or it is
                there, and its result has been taken away.
            TimeoutError: It has not ended in time.
            InvalidResult: It is the job of a task, and its result is not of the task's type.
        """
        return self._decode(await self._app.results.wait(self.snapshot, timeout))

    async def retry(self, *, reset_attempts: bool = False, reset_started: bool = False) -> None:
        """Let the finished job run again.

        Args:
            reset_attempts: Begin to count its attempts anew; otherwise one that has used them up
                gets one more.
            reset_started: Begin to count anew how often it was picked up.

        Raises:
            JobNotFound: It is gone.
            JobStateError: It has not finished; or a rule has taken its data, and it would run
                without: give it data with `update` first.
        """
        await self._perform(
            self._operations.retry(reset_attempts=reset_attempts, reset_started=reset_started)
        )

    async def promote(self) -> None:
        """Let the delayed job run now. Raises `JobStateError` if it is not delayed."""
        await self._perform(self._operations.promote())

    async def change_delay(self, delay: timedelta | str | datetime) -> None:
        """Let the delayed job run so long from now, or at that moment.

        Raises:
            JobNotFound: It is gone.
            JobStateError: It is not delayed.
        """
        await self._perform(self._operations.change_delay(delay))

    async def change_priority(self, priority: int, *, lifo: bool = False) -> None:
        """Give the job another priority; one that waits gets its place by it.

        Args:
            priority: 1 is the most urgent, 2097151 the least; 0: none, so that it goes before all
                that have one.
            lifo: It goes before the others of that priority, not behind them.

        To find one waiting job in its list takes the server about 7 ms for each million of jobs
        that wait before it.

        Raises `JobNotFound` if it is gone.
        """
        await self._perform(self._operations.change_priority(priority, lifo=lifo))

    async def unlink(self) -> bool:
        """Take the job off its parent, which runs if it waits for nothing else.

        Returns:
            False if the parent does not wait for it, as it has ended; nothing is changed then.

        Raises:
            JobNotFound: It is gone.
            ParentError: It has no parent, or that is gone.
        """
        return await self._perform(self._operations.unlink())

    async def remove_unprocessed_children(self) -> Removals:
        """Remove its children that have not ended, each with those below it.

        What a worker is running, or has failed, is left. If the job waits for nothing else, it
        runs.

        Returns:
            The ids of the children that went; `kept` tells which a plugin keeps.

        Raises:
            JobNotFound: It is gone.
            Reject: A plugin refuses; nothing was removed.
        """
        return await self._perform(self._operations.remove_unprocessed_children())

    async def remove(self, *, children: bool = True) -> bool:
        """Remove the job, with all jobs below it unless `children` is False.

        To find one waiting job in its list takes the server about 7 ms for each million of jobs
        that wait before it.

        Returns:
            False if it was gone already.

        Raises:
            JobLocked: A worker is running it, or one below it.
            JobStateError: It is the next run of a schedule.
            Reject: A plugin refuses, or keeps one of these jobs; nothing was removed.
        """
        return await self._perform(self._operations.remove(children=children))

    async def erase(self) -> Erasure:
        """Erase the job: what is stored of it, what names it, and what plugins keep of it.

        Beside the job itself that is: entries in the keys of its parent; entries of the queue's
        event stream; and what plugins have, such as copies. It works for a job that is gone, too,
        and doing it again after an error does what is left to do.

        Raises:
            JobLocked: A worker is running it.
            JobStateError: It is the next run of a schedule; or its parent has not ended, and needs
                what this job left.
            Reject: A plugin refuses, or keeps the job; nothing was erased.
            PluginError: A plugin could not erase what it keeps.
        """
        return await self._app.erase(self.ref, self.snapshot.parent)

    async def remove_deduplication(self) -> bool:
        """Close its deduplication window. False if it has none, or it is not open for this job."""
        return await self._perform(
            self._operations.remove_deduplication(self.snapshot.deduplication_id)
        )

    async def update(self, data: Json) -> None:
        """Replace its payload. Raises `JobNotFound` if it is gone."""
        await self._perform(self._operations.update(data))

    async def progress(self, value: Json) -> None:
        """Report its progress, any JSON value. Raises `JobNotFound` if it is gone."""
        await self._perform(self._operations.progress(value))

    async def log(self, line: str) -> int:
        """Add a line to its log. Returns how many it has. Raises `JobNotFound` if it is gone."""
        return await self._perform(self._operations.log(line, self.keep_logs))

    async def logs(self, *, limit: int | None = None, skip: int = 0) -> tuple[str, ...]:
        """Its log lines, oldest first.

        Args:
            limit: The newest so many.
            skip: Pass over the newest so many.
        """
        return await self._perform(self._operations.logs(limit, skip))

    async def clear_logs(self, *, keep: int = 0) -> None:
        """Remove its log lines but for the newest `keep`. Raises `JobNotFound` if it is gone."""
        await self._perform(self._operations.clear_logs(keep))

    async def children(self) -> Dependencies:
        """Its children, by what became of them."""
        return await self._perform(self._operations.children())

    async def children_counts(self) -> dict[DependencyKind, int]:
        """How many children it has of each kind; see `children_page` for the kinds."""
        return await self._perform(self._operations.children_counts())

    async def children_page(
        self, kind: DependencyKind, *, cursor: str = "0", count: int = 200
    ) -> DependencyPage:
        """Some of its children of one kind, for a job with very many.

        Args:
            kind: `unprocessed` (not ended, or failed without any policy), `processed` (completed),
                `ignored` (failed without failing this job), `failed` (failed, and so fails it).
            cursor: Where to go on: the `cursor` of the page before.
            count: About so many; a small parent gives all at once.

        Returns:
            The children by their keys, with what they left, and the next cursor; None at the end.
            A child may come twice, and one that moves meanwhile may be missed.

        Raises `ValueError` for what is no kind, cursor or count.
        """
        return await self._perform(self._operations.children_page(kind, cursor, count))

    async def parent(self) -> Job | None:
        """The job that waits for it; None if there is none, or it is gone."""
        found = await self._perform(self._operations.parent(self.snapshot.parent))
        return None if found is None else Job(self._app, found)

    async def explain(self) -> list[Fact]:
        """What is known about its present and future, by Toril and by the plugins.

        Raises `JobNotFound` if it is gone, and no plugin knows of it.
        """
        dispatcher = self._app.runtime.dispatcher
        try:
            facts = await self._perform(explain(self._app.context, self.ref))
        except JobNotFound:
            recalled = await dispatcher.recall(self.ref)
            told = [fact for _, fact in await dispatcher.explain(self.ref)]
            facts = gone_facts(recalled, told)
            if not facts:
                raise
            return facts
        return facts + [fact for _, fact in await dispatcher.explain(self.ref)]
