"""The synchronous face of an App: the same operations for code without an event loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from toril.arguments import several
from toril.connection.call import Procedure
from toril.flow import Flow, FlowTree, queues_of
from toril.flow_operations import FlowOperations
from toril.inspection import InspectionOperations, SyncInspection
from toril.job_operations import JobOperations
from toril.limits import SyncLimits
from toril.metrics import Sample
from toril.new_job import (
    HasRef,
    JobOptions,
    NewJob,
    QueueDefaults,
    check_names,
    check_options,
    ref_of,
)
from toril.operations import QueueOperations
from toril.protocol import reading
from toril.removals import Erasure, Removals
from toril.runtime import Runtime
from toril.setting import Level, Said, Setting
from toril.snapshots import JobRef, ParentRef, Recalled
from toril.sync_add_batches import SyncAddBatches
from toril.sync_job import SyncJob
from toril.types import Json, Outcome, State

if TYPE_CHECKING:
    from toril.hooks.findings import AuditReport, Finding, Repair
    from toril.schedule import Pace, Schedule
    from toril.schedule_operations import ScheduleOperations

S = TypeVar("S", bound=Setting)
T = TypeVar("T")


class SyncApp:
    """`app.sync`: queues, flows and jobs of an App, for threads.

        app = App("redis://localhost")
        app.sync.queue("emails").add("welcome", {"to": "ada@example.org"})

    Redis is asked from the calling thread; any number of threads may share it. Plugins are the
    App's own; what they do asynchronously runs on one loop while the caller waits. After a fork it
    opens its own connections. `close` (or `with`) ends it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._adds: dict[tuple[int, str], SyncAddBatches] = {}

    def queue(
        self, name: str, /, *settings: Setting, **defaults: Unpack[QueueDefaults]
    ) -> SyncQueue:
        """A queue; see `App.queue`."""
        check_names("queue", defaults, QueueDefaults)
        self.runtime.declared.declare(name, settings)
        return SyncQueue(self, name, defaults)

    def adds(self, queue: str) -> SyncAddBatches:
        """Where single jobs of a queue are added; for `SyncQueue.add`."""
        key = (os.getpid(), queue)  # what waits elsewhere is no part of a forked child
        batches = self._adds.get(key)
        if batches is None:
            operations = QueueOperations(self.runtime.context, queue)
            batches = self._adds.setdefault(key, SyncAddBatches(self.runtime, operations))
        return batches

    def queues(self) -> list[str]:
        """The names of the queues on the server; see `App.queues`."""
        return self.perform(reading.queues(self.runtime.context.prefix))

    def named(self, kind: str, name: str) -> Any:
        """What a plugin registered under a name; see `App.named`."""
        return self.runtime.named(kind, name)

    def metrics(self) -> tuple[Sample, ...]:
        """All counters and gauges of this process; see `App.metrics`."""
        return self.runtime.samples()

    def audit(self, queue: str, *, most: int | None = None) -> AuditReport:
        """Look whether what is stored of a queue agrees with itself; see `App.audit`.

        Repairs run on the App's loop: `app.sync.repair(finding)`.
        """
        from toril.auditing import Auditor

        self.runtime.start_sync()
        return self.runtime.run(Auditor(self.runtime, queue, most).run())

    def repair(self, finding: Finding) -> bool:
        """Repair what an audit found; False if it was not so any more, or cannot be repaired."""
        if finding.repair is None:
            return False
        return self.runtime.run(_repaired(finding.repair))

    def add_flow(self, flow: Flow, /, *settings: Setting) -> SyncJob:
        """Add a flow; see `App.add_flow`."""
        one_slot = self.runtime.endpoint.kind == "cluster"
        adding = FlowOperations(self.runtime.context).add(flow, settings, one_slot=one_slot)
        return SyncJob(self, self.perform(adding, *queues_of(flow)))

    def add_flows(self, flows: Iterable[Flow], /, *settings: Setting) -> list[SyncJob]:
        """Add several flows; see `App.add_flows`."""
        one_slot = self.runtime.endpoint.kind == "cluster"
        given = several(flows, "the flows to add")
        adding = FlowOperations(self.runtime.context).add_many(given, settings, one_slot=one_slot)
        return [SyncJob(self, root) for root in self.perform(adding, *queues_of(*given))]

    def flow_tree(
        self, job: HasRef | JobRef, *, depth: int = 10, width: int = 50
    ) -> FlowTree[SyncJob]:
        """A flow as it is stored now; see `App.flow_tree`."""
        ref = ref_of(job, "where a tree begins")
        tree = self.perform(FlowOperations(self.runtime.context).tree(ref, depth, width))
        gone = {ref: self.runtime.recall_sync(ref) for ref in tree.all_gone()}
        return tree.of(lambda snapshot: SyncJob(self, snapshot), gone)

    def erase(self, job: JobRef, parent: ParentRef | None = None) -> Erasure:
        """Erase a job; see `App.erase`."""
        runtime = self.runtime
        runtime.start_sync()
        ref = ref_of(job, "what is erased")
        operations = JobOperations(runtime.context, ref.queue, ref.id, ref.prefix)
        recalled = None if parent else runtime.recall_sync(ref)
        known = parent or (recalled.parent if recalled else None)
        traces = self.perform(operations.erase(known), ref.queue)
        told = runtime.erase_sync(ref)
        return Erasure(traces.job, traces.in_parent, traces.events, told)

    def perform(self, procedure: Procedure[T], *queues: str) -> T:
        """Carry out a procedure; see `App.perform`."""
        return self.runtime.perform_sync(procedure, queues)

    def __enter__(self) -> Self:
        self.runtime.start_sync()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the plugins and close the connections; the App can be used again.

        Raises `ConfigurationError` on the App's own loop: `await app.aclose()` there.
        """
        self.runtime.close_sync()


async def _repaired(repair: Repair) -> bool:
    return await repair.run()


class SyncQueue(SyncInspection, SyncLimits):
    """A queue, made by `app.sync.queue(name)`. Every method is that of `Queue`, without `await`."""

    def __init__(self, app: SyncApp, name: str, defaults: QueueDefaults) -> None:
        self._app = app
        self._operations = QueueOperations(app.runtime.context, name, defaults)
        self.name = name
        self.defaults = defaults

    def __repr__(self) -> str:
        return f"<SyncQueue {self.name!r}>"

    @property
    def key(self) -> str:
        """What the names of its keys in the server begin with."""
        return self._operations.key

    def _perform(self, procedure: Procedure[T]) -> T:
        return self._app.perform(procedure, self.name)

    def add(
        self,
        name: str,
        data: Json = None,
        /,
        *settings: Setting,
        **options: Unpack[JobOptions],
    ) -> SyncJob:
        """Add a job. Adds of many threads at once go out together."""
        drafted = self._operations.drafted_one(name, data, settings, options)
        return SyncJob(self._app, self._app.adds(self.name).add(drafted))

    def add_many(self, jobs: Iterable[NewJob]) -> list[SyncJob]:
        """Add many jobs, in calls of at most 200 each."""
        added = self._perform(self._operations.add(several(jobs, "the jobs to add")))
        return [SyncJob(self._app, job) for job in added]

    def get(self, id: str) -> SyncJob | None:
        """The job with that id, or None."""
        found = self._perform(self._operations.get(id))
        return None if found is None else SyncJob(self._app, found)

    def jobs(
        self,
        *states: State,
        start: int = 0,
        limit: int | None = None,
        ascending: bool | None = None,
    ) -> Iterator[SyncJob]:
        """The jobs of some states (default: all), state by state; see `Queue.jobs`."""
        pages = self._operations.pages(states, start=start, limit=limit, ascending=ascending)
        while not pages.done:
            for listed in self._perform(pages.following()):
                yield SyncJob(self._app, listed.job)

    def recall(self, id: str) -> Recalled | None:
        """What plugins still know of a job that is gone."""
        self._app.runtime.start_sync()
        return self._app.runtime.recall_sync(JobRef(self.name, id))

    def state(self, id: str) -> State:
        """In which state the job is."""
        return self._perform(self._operations.job(id).state())

    def counts(self, *states: State) -> dict[State, int]:
        """How many jobs are in each of some states (default: all)."""
        return self._perform(self._operations.counts(states))

    def count(self, *states: State) -> int:
        """How many jobs are in some states (default: all) together."""
        return sum(self.counts(*states).values())

    def counts_per_priority(self, *priorities: int) -> dict[int, int]:
        """How many jobs wait for a worker with each of these priorities; 0: without one."""
        return self._perform(self._operations.counts_per_priority(priorities))

    def update(self, id: str, data: Json) -> None:
        """Replace the payload of a job."""
        self._perform(self._operations.job(id).update(data))

    def progress(self, id: str, value: Json) -> None:
        """Report the progress of a job, any JSON value."""
        self._perform(self._operations.job(id).progress(value))

    def log(self, id: str, line: str, *, keep: int | None = None) -> int:
        """Add a line to the log of a job; see `Queue.log`."""
        return self._perform(self._operations.job(id).log(line, keep))

    def deduplication_owner(self, id: str) -> str | None:
        """The id of the job that owns a deduplication window; None if it is not open."""
        return self._perform(self._operations.deduplication_owner(id))

    def remove_deduplication(self, id: str) -> bool:
        """Close a deduplication window; see `Queue.remove_deduplication`."""
        return self._perform(self._operations.remove_deduplication(id))

    def pause(self) -> None:
        """Let no worker begin another job of this queue."""
        self._perform(self._operations.pause())

    def resume(self) -> None:
        """Undo `pause`."""
        self._perform(self._operations.resume())

    def is_paused(self) -> bool:
        """Whether the queue is paused."""
        return self._perform(self._operations.is_paused())

    def drain(self, *, delayed: bool = False) -> Removals:
        """Remove the jobs that wait to run, the delayed ones too if asked."""
        return self._perform(self._operations.drain(delayed=delayed))

    def clean(
        self, state: State, *, older_than: timedelta | str, limit: int | None = None
    ) -> Removals:
        """Remove jobs of one state, oldest first."""
        return self._perform(self._operations.clean(state, older_than=older_than, limit=limit))

    def obliterate(self, *, force: bool = False) -> None:
        """Remove the queue with all its jobs."""
        self._perform(self._operations.obliterate(force=force))

    def remove(self, id: str, *, children: bool = True) -> bool:
        """Remove a job, with all jobs below it unless `children` is False."""
        return self._perform(self._operations.job(id).remove(children=children))

    def erase(self, id: str) -> Erasure:
        """Erase a job and everything that names it; see `Job.erase`."""
        return self._app.erase(JobRef(self.name, id))

    def retry_all(
        self,
        state: Outcome = "failed",
        *,
        limit: int | None = None,
        older_than: timedelta | str | None = None,
        reset_attempts: bool = False,
        reset_started: bool = False,
    ) -> int:
        """Let finished jobs of one outcome run again; see `Queue.retry_all`."""
        return self._perform(
            self._operations.retry_all(
                state,
                limit=limit,
                older_than=older_than,
                reset_attempts=reset_attempts,
                reset_started=reset_started,
            )
        )

    def promote_all(self, *, limit: int | None = None) -> int:
        """Let the delayed jobs run now, at most `limit`."""
        return self._perform(self._operations.promote_all(limit))

    @cached_property
    def _inspection(self) -> InspectionOperations:
        return InspectionOperations(self._app.runtime.context, self.name)

    @cached_property
    def _schedules(self) -> ScheduleOperations:
        from toril.schedule_operations import ScheduleOperations  # most programs have none

        return ScheduleOperations(self._app.runtime.context, self.name, self.defaults)

    def schedule(
        self,
        id: str,
        pace: Pace,
        name: str,
        data: Json = None,
        /,
        *settings: Setting,
        **options: Unpack[JobOptions],
    ) -> Schedule:
        """Add a job again and again; see `Queue.schedule`."""
        check_options("schedule", options)
        job = NewJob(name, data, *settings, **options)
        return self._perform(self._schedules.upsert(id, pace, job))

    def schedules(self) -> list[Schedule]:
        """All its schedules; see `Queue.schedules`."""
        return self._perform(self._schedules.all())

    def get_schedule(self, id: str) -> Schedule | None:
        """The schedule with that id, or None."""
        return self._perform(self._schedules.get(id))

    def remove_schedule(self, id: str) -> bool:
        """Remove a schedule; see `Queue.remove_schedule`."""
        return self._perform(self._schedules.remove(id))

    def pause_schedule(self, id: str) -> None:
        """Add no more runs of a schedule; see `Queue.pause_schedule`."""
        self._perform(self._schedules.pause(id))

    def resume_schedule(self, id: str) -> Schedule:
        """Undo `pause_schedule`."""
        return self._perform(self._schedules.resume(id))

    def run_schedule(self, id: str) -> SyncJob:
        """Add one job like the runs of a schedule; see `Queue.run_schedule`."""
        return SyncJob(self._app, self._perform(self._schedules.run_now(id)))

    def set(self, setting: Setting, *, source: str = "SyncQueue.set") -> None:
        """Say something for the whole queue."""
        self._perform(self._operations.set(setting, source))

    def change(
        self,
        kind: type[S],
        change: Callable[[S | None], S | None],
        *,
        source: str = "SyncQueue.change",
    ) -> Said[S] | None:
        """Say something for the whole queue that is made from what is said."""
        return self._perform(self._operations.change(kind, change, source))

    def unset(
        self, kind: type[Setting], *, level: Level = "queue", source: str = "SyncQueue.unset"
    ) -> None:
        """Take back what was said for all jobs of the queue, at one of the live levels."""
        self._perform(self._operations.unset(kind, level, source))

    def said(self, kind: type[S]) -> Said[S] | None:
        """What is said for the queue now."""
        return self._perform(self._operations.said(kind))

    def said_by_level(self, kind: type[S]) -> tuple[Said[S], ...]:
        """All that is said for the whole queue, most specific level first."""
        return self._perform(self._operations.said_by_level(kind))
