"""A queue: adding jobs, looking at them, and steering the queue itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, Unpack

from toril.arguments import several
from toril.connection.call import Procedure
from toril.inspection import Inspection, InspectionOperations
from toril.job import Job
from toril.limits import Limits
from toril.new_job import JobOptions, NewJob, QueueDefaults, check_options
from toril.operations import QueueOperations
from toril.removals import Erasure, Removals
from toril.setting import Level, Said, Setting
from toril.snapshots import JobRef, Recalled
from toril.types import Json, Outcome, State

if TYPE_CHECKING:
    from toril.add_batches import AddBatches
    from toril.app import App
    from toril.schedule import Pace, Schedule
    from toril.schedule_operations import ScheduleOperations
    from toril.task import TaskMaker

S = TypeVar("S", bound=Setting)
T = TypeVar("T")


class Queue(Inspection, Limits):
    """A queue of an App, made by `app.queue(name)`.

    Every method raises `ServerError` if the server cannot do what was asked.
    """

    def __init__(self, app: App, name: str, defaults: QueueDefaults) -> None:
        self._app = app
        self._operations = QueueOperations(app.context, name, defaults)
        self.name = name
        self.defaults = defaults

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    @property
    def app(self) -> App:
        """The App that made it."""
        return self._app

    @property
    def key(self) -> str:
        """What the names of its keys in the server begin with."""
        return self._operations.key

    @property
    def task(self) -> TaskMaker:
        """Make a typed task of a function: `@queue.task`, or `@queue.task(attempts=5)`.

        The arguments of the latter are settings, `name` (the function's, if nothing is said), and
        the options of `add`, for each job of the task.
        """
        from toril.task import TaskMaker  # many programs have none

        return TaskMaker(self)

    async def _perform(self, procedure: Procedure[T]) -> T:
        return await self._app.perform(procedure, self.name)

    async def add(
        self,
        name: str,
        data: Json = None,
        /,
        *settings: Setting,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Add a job.

        Adds of many tasks at once go out together, in the order in which they came.

        Args:
            name: What kind of job it is; the handler sees it.
            data: The payload, any JSON value.
            settings: What is said for this one job.
            options: See `JobOptions`: `id`, `delay`, `priority`, `lifo`, `attempts`, `backoff`,
                `size_limit`, `keep_logs`, `stack_trace_limit`, `timestamp`, `parent`, `timeout`,
                `on_failure`.

        Returns:
            The job; if one with the same `id` exists, that one, unchanged.

        Raises:
            TypeError: An unknown option, or a value of the wrong type.
            InvalidJob: Something that cannot be saved.
            ParentError: The parent does not exist, or the job has another living parent.
            Reject: A plugin refuses the job.
            PluginError: A plugin broke while the job was planned.
            ServerFull: The server is full; nothing was written.
            IndeterminateError: The reply was lost; `job_ids` names the job.
        """
        drafted = self._operations.drafted_one(name, data, settings, options)
        return Job(self._app, await self._adds.add(drafted))

    async def add_many(self, jobs: Iterable[NewJob]) -> list[Job]:
        """Add many jobs, in calls of at most 200 each; the order is kept.

        Everything is checked and planned before the first is written: one refusal refuses all.
        Raises what `add` raises, naming the item. Each call is atomic, all of them together are
        not, and one goes out while the one before it is under way: when a call fails those before
        it have been done, and the one behind it may have been.
        """
        added = await self._perform(self._operations.add(several(jobs, "the jobs to add")))
        return [Job(self._app, job) for job in added]

    async def get(self, id: str) -> Job | None:
        """The job with that id, or None."""
        found = await self._perform(self._operations.get(id))
        return None if found is None else Job(self._app, found)

    async def jobs(
        self,
        *states: State,
        start: int = 0,
        limit: int | None = None,
        ascending: bool | None = None,
    ) -> AsyncIterator[Job]:
        """The jobs of some states (default: all), state by state, read in pages.

        Within a state what runs next comes first; of finished jobs the newest. The pages are not
        one moment: a job that moves meanwhile may be missed.

        Args:
            states: In this order.
            start: Pass over the first so many of them all.
            limit: At most so many in all.
            ascending: What ran or will run first comes first (True), or last (False).

        Raises `ConfigurationError` for a state that there is not.
        """
        pages = self._operations.pages(states, start=start, limit=limit, ascending=ascending)
        while not pages.done:
            for listed in await self._perform(pages.following()):
                yield Job(self._app, listed.job)

    async def recall(self, id: str) -> Recalled | None:
        """What plugins still know of a job that is gone; None if none knows it.

        Whether the job is gone is not looked at.
        """
        await self._app.runtime.start()
        return await self._app.runtime.dispatcher.recall(JobRef(self.name, id))

    async def state(self, id: str) -> State:
        """In which state the job is; `unknown` if it is in none."""
        return await self._perform(self._operations.job(id).state())

    async def counts(self, *states: State) -> dict[State, int]:
        """How many jobs are in each of some states (default: all)."""
        return await self._perform(self._operations.counts(states))

    async def count(self, *states: State) -> int:
        """How many jobs are in some states (default: all) together."""
        return sum((await self.counts(*states)).values())

    async def counts_per_priority(self, *priorities: int) -> dict[int, int]:
        """How many jobs wait for a worker with each of these priorities; 0: without one.

        Raises `ValueError` if none is named.
        """
        return await self._perform(self._operations.counts_per_priority(priorities))

    async def update(self, id: str, data: Json) -> None:
        """Replace the payload of a job. Raises `JobNotFound`."""
        await self._perform(self._operations.job(id).update(data))

    async def progress(self, id: str, value: Json) -> None:
        """Report the progress of a job, any JSON value. Raises `JobNotFound`."""
        await self._perform(self._operations.job(id).progress(value))

    async def log(self, id: str, line: str, *, keep: int | None = None) -> int:
        """Add a line to the log of a job. Returns how many it has. Raises `JobNotFound`.

        `keep`: only the newest so many lines stay; None: all.
        """
        return await self._perform(self._operations.job(id).log(line, keep))

    async def deduplication_owner(self, id: str) -> str | None:
        """The id of the job that owns a deduplication window; None if it is not open."""
        return await self._perform(self._operations.deduplication_owner(id))

    async def remove_deduplication(self, id: str) -> bool:
        """Close a deduplication window, so that the next job is added. False if it was not open."""
        return await self._perform(self._operations.remove_deduplication(id))

    async def pause(self) -> None:
        """Let no worker begin another job of this queue; those that run are not touched."""
        await self._perform(self._operations.pause())

    async def resume(self) -> None:
        """Undo `pause`."""
        await self._perform(self._operations.resume())

    async def is_paused(self) -> bool:
        """Whether the queue is paused."""
        return await self._perform(self._operations.is_paused())

    async def drain(self, *, delayed: bool = False) -> Removals:
        """Remove the jobs that wait to run, the delayed ones too if asked.

        Returns their ids; `kept` tells which jobs were passed over, as a plugin keeps them.
        Raises `Reject` or `PluginError` if a plugin refuses; then nothing was removed.
        """
        return await self._perform(self._operations.drain(delayed=delayed))

    async def clean(
        self, state: State, *, older_than: timedelta | str, limit: int | None = None
    ) -> Removals:
        """Remove jobs of one state, oldest first.

        Returns their ids; `kept` tells which jobs were passed over, as a plugin keeps them.

        Args:
            state: Any but `waiting-children`.
            older_than: Finished jobs: that ended so long ago; others: that were picked up, or else
                added, so long ago. Jobs that a worker is running are left.
            limit: At most so many.

        Raises:
            ConfigurationError: There is no such state, or its jobs cannot be cleaned.
            Reject: A plugin refuses; nothing was removed.
            PluginError: A plugin broke; nothing was removed.
        """
        return await self._perform(
            self._operations.clean(state, older_than=older_than, limit=limit)
        )

    async def obliterate(self, *, force: bool = False) -> None:
        """Remove the queue with all its jobs. It is paused first.

        Raises:
            JobLocked: Jobs are running, and `force` was not given; nothing was done.
            Reject: A plugin refuses, or keeps a job; nothing was removed.
        """
        await self._perform(self._operations.obliterate(force=force))

    async def remove(self, id: str, *, children: bool = True) -> bool:
        """Remove a job, with all jobs below it unless `children` is False.

        Returns:
            False if there was no such job.

        Raises:
            JobLocked: A worker is running it, or one below it.
            JobStateError: It is the next run of a schedule.
            Reject: A plugin refuses, or keeps one of these jobs; nothing was removed.
        """
        return await self._perform(self._operations.job(id).remove(children=children))

    async def erase(self, id: str) -> Erasure:
        """Erase a job: what is stored of it, what names it, and what plugins keep of it.

        See `Job.erase`, which raises the same.
        """
        return await self._app.erase(JobRef(self.name, id))

    async def retry_all(
        self,
        state: Outcome = "failed",
        *,
        limit: int | None = None,
        older_than: timedelta | str | None = None,
        reset_attempts: bool = False,
        reset_started: bool = False,
    ) -> int:
        """Let finished jobs of one outcome run again, oldest first. Returns how many.

        Those of which a rule has taken the data stay as they are.

        Args:
            state: How they ended.
            limit: At most so many.
            older_than: Only those that ended so long ago.
            reset_attempts: Begin to count their attempts anew.
            reset_started: Begin to count anew how often they were picked up.
        """
        return await self._perform(
            self._operations.retry_all(
                state,
                limit=limit,
                older_than=older_than,
                reset_attempts=reset_attempts,
                reset_started=reset_started,
            )
        )

    async def promote_all(self, *, limit: int | None = None) -> int:
        """Let the delayed jobs run now, at most `limit`, earliest first. Returns how many."""
        return await self._perform(self._operations.promote_all(limit))

    @cached_property
    def _adds(self) -> AddBatches:
        return self._app.adds(self.name)

    @cached_property
    def _inspection(self) -> InspectionOperations:
        return InspectionOperations(self._app.context, self.name)

    @cached_property
    def _schedules(self) -> ScheduleOperations:
        from toril.schedule_operations import ScheduleOperations  # most programs have none

        return ScheduleOperations(self._app.context, self.name, self.defaults)

    async def schedule(
        self,
        id: str,
        pace: Pace,
        name: str,
        data: Json = None,
        /,
        *settings: Setting,
        **options: Unpack[JobOptions],
    ) -> Schedule:
        """Add a job again and again; a schedule with that id is replaced.

        Args:
            id: The schedule's id.
            pace: `Every("5m")` or `Cron("0 3 * * *", tz="Europe/Madrid")`.
            name: What kind of job the runs are.
            data: Their payload.
            settings: What is said for each of them.
            options: See `Queue.add`; not `id`, `delay`, `timestamp`, `parent`, `timeout`,
                `on_failure`.

        Raises what `Queue.add` raises, and `InvalidJob` if it would have no run before its end;
        plugins are asked now, about all runs to come.
        """
        check_options("schedule", options)
        job = NewJob(name, data, *settings, **options)
        return await self._perform(self._schedules.upsert(id, pace, job))

    async def schedules(self) -> list[Schedule]:
        """All its schedules, by the time of their next run."""
        return await self._perform(self._schedules.all())

    async def get_schedule(self, id: str) -> Schedule | None:
        """The schedule with that id, or None."""
        return await self._perform(self._schedules.get(id))

    async def remove_schedule(self, id: str) -> bool:
        """Remove a schedule with its next run; False if there is none.

        A run that is waiting for a worker or running is not touched.
        """
        return await self._perform(self._schedules.remove(id))

    async def pause_schedule(self, id: str) -> None:
        """Take the next run of a schedule away, and add no more. Raises `JobNotFound`."""
        await self._perform(self._schedules.pause(id))

    async def resume_schedule(self, id: str) -> Schedule:
        """Undo `pause_schedule`. Raises `JobNotFound`; `InvalidJob` if its end has passed."""
        return await self._perform(self._schedules.resume(id))

    async def run_schedule(self, id: str) -> Job:
        """Add one job like the runs of a schedule now, beside them. Raises `JobNotFound`."""
        return Job(self._app, await self._perform(self._schedules.run_now(id)))

    async def set(self, setting: Setting, *, source: str = "Queue.set") -> None:
        """Say something for the whole queue; it counts at once, also for jobs that are kept.

        `source` is stored with it: who or what says so.
        """
        await self._perform(self._operations.set(setting, source))

    async def change(
        self,
        kind: type[S],
        change: Callable[[S | None], S | None],
        *,
        source: str = "Queue.change",
    ) -> Said[S] | None:
        """Say something for the whole queue that is made from what is said: `set` for two at once.

        `change` gets the queue's own value, or None, and returns the new one, or None to take it
        back; it is called again if somebody else changed it meanwhile. Returns what is said then.
        """
        return await self._perform(self._operations.change(kind, change, source))

    async def unset(
        self, kind: type[Setting], *, level: Level = "queue", source: str = "Queue.unset"
    ) -> None:
        """Take back what was said for all jobs of the queue, at one of the live levels."""
        await self._perform(self._operations.unset(kind, level, source))

    async def said(self, kind: type[S]) -> Said[S] | None:
        """What is said for the queue now: the most specific of queue, worker and application."""
        return await self._perform(self._operations.said(kind))

    async def said_by_level(self, kind: type[S]) -> tuple[Said[S], ...]:
        """All that is said for the whole queue, most specific level first."""
        return await self._perform(self._operations.said_by_level(kind))
