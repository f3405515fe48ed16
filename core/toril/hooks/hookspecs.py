"""The hooks of Toril.

Five kinds, never mixed. **Plan** hooks (`toril_plan_…`) are plain functions without side effects,
asked before the script. **Event** hooks (`toril_jobs_…`) are told afterwards, several jobs at a
time, and cannot harm a job. The **around** hook (`toril_around_job`) encloses the run of a handler.
**Lifecycle** hooks open and close what a plugin needs.
**Registration** hooks tell Toril what else a plugin brings.

Each plugin is called on its own, in plugin order: as configured, else alphabetical, Toril's own
last; `@hookimpl(tryfirst=True)` and `trylast=True` shift within it. An implementation may name
fewer arguments than its specification, and no defaults. Wrappers are refused: code around a hook
could neither time nor guard an asynchronous implementation.

With the synchronous face a plain function is called in the thread that called Toril, so that
several threads may be in it at once; an asynchronous one runs on the App's one loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias

from toril.hooks.markers import hookspec

if TYPE_CHECKING:
    from toril.hooks.context import Fact, PluginContext, WorkerInfo
    from toril.hooks.findings import Audit, Finding
    from toril.hooks.registry import Registry
    from toril.job_events import (
        JobAttemptFailed,
        JobCompleted,
        JobRemoved,
        JobRetried,
        JobSaved,
        JobStalled,
    )
    from toril.snapshots import Draft, FinishedJob, JobRef, JobSnapshot, Recalled, Removal, SavePlan
    from toril.types import Json

Done: TypeAlias = "Awaitable[None] | None"
"""What an event or lifecycle hook returns: nothing, now or when awaited."""


@hookspec
def toril_plan_save(draft: Draft) -> SavePlan | None:
    """Add options, settings or a field of your own to a job about to be saved, or refuse it.

    When: before the script of `add`, `add_many`, a flow (each node) and a schedule (at upsert, on
    the template; its jobs inherit the plan). Not for jobs that other libraries add.
    Where: the process that adds. `draft.opts` holds what the caller and the plugins before gave;
    two plugins that give one option different values are an error that names both.
    Plain `def`, no side effects: the save may still be refused by somebody else.
    An error refuses the save: `Reject` reaches the caller as it is, anything else as `PluginError`.
    In a bulk or a flow one refusal refuses the whole call and names the item.
    With `@only_when_said` under `@hookimpl` you are not asked about jobs for which nobody has said
    anything, and cost them nothing.

        @hookimpl
        def toril_plan_save(draft: Draft) -> SavePlan | None:
            if draft.queue == "mail" and "to" not in (draft.data or {}):
                raise Reject("a mail needs an address")
            return None
    """
    raise NotImplementedError


@hookspec
def toril_plan_finish(job: FinishedJob) -> Json:
    """The value that your `finished` chunk of Lua gets for this job as `ctx.plan`.

    When: just before the script that finishes jobs, once per job. Jobs that somebody else finishes
    (another library, a worker without this plugin) have no plan.
    Where: the worker that ran the job, or whose check failed it.
    Plain `def`, no side effects, quick: it stands between a job and the next. JSON values only;
    integers beyond 2**53 arrive rounded in Lua.
    A finish is never refused: an error is logged and counted, and the job is finished *undecided*
    (`ctx.undecided` in every chunk).
    With `@only_for(condition)` under `@hookimpl` you are asked about the jobs it holds for only.

        @hookimpl
        def toril_plan_finish(job: FinishedJob) -> Json:
            return {"tier": job.get("customer.tier", str)}
    """
    raise NotImplementedError


@hookspec
def toril_around_job(job: JobSnapshot) -> AbstractContextManager[object] | None:
    """Be there while a handler runs: the context manager returned is entered before, left after.

    When: once per run of a handler; not for a job that must fail without one.
    Where: the worker's process, in the task of the job, so that what is set in a context variable
    is seen by the handler (also by one in a thread; not by one in a process of its own). It is left
    with what the handler raised, before the job is finished.
    Plain `def`, quick, as is the manager. An error is logged and counted; it neither keeps the
    handler from running nor changes how the job ends: what the handler raised goes on its way.

        @hookimpl
        def toril_around_job(job: JobSnapshot) -> AbstractContextManager[object]:
            return structlog.contextvars.bound_contextvars(job=job.id)
    """
    raise NotImplementedError


@hookspec
def toril_plan_remove(removal: Removal) -> None:
    """Refuse an operator's remove, clean, drain or obliterate by raising `Reject`.

    When: before its first script. `removal.ids` is None for a whole state or queue.
    Where: the process in which it was asked for. Not called for removals by a plugin's rule, nor
    for those by other libraries.
    Plain `def`, no side effects. An error other than `Reject` refuses too, as `PluginError`.

        @hookimpl
        def toril_plan_remove(removal: Removal) -> None:
            if removal.queue == "invoices":
                raise Reject("invoices are kept by law")
    """
    raise NotImplementedError


@hookspec
def toril_jobs_saved(events: Sequence[JobSaved]) -> Done:
    """Jobs were written: by `add`, `add_many`, a flow, a schedule. A duplicate is not saved.

    When: after the script, one call per reply, in commit order, at most 1,000 jobs.
    Where: the process that saved them; a producer waits for it before `add` returns.
    `def` or `async def` (use that for I/O), at most 10 seconds. An error or a time-out is logged
    and counted and changes nothing for anybody; one that keeps failing is left alone for a while.

        @hookimpl
        async def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
            await self.search.index([(e.job.id, e.job.data) for e in events])
    """
    raise NotImplementedError


@hookspec
def toril_jobs_completed(events: Sequence[JobCompleted]) -> Done:
    """Jobs ended well; they may be gone from the server already.

    When: after the script, one call per reply, in commit order, at most 1,000 jobs.
    Where: the worker that finished them. What other libraries finish fires nothing.
    `def` or `async def`, as for `toril_jobs_saved`.

        @hookimpl
        def toril_jobs_completed(events: Sequence[JobCompleted]) -> None:
            DONE.inc(len(events))
    """
    raise NotImplementedError


@hookspec
def toril_jobs_failed(events: Sequence[JobAttemptFailed]) -> Done:
    """Attempts failed, once per attempt: `event.final` says whether the job did.

    When: after the script, one call per reply, in commit order, at most 1,000 jobs.
    Where: the process that failed them; `event.cause` says why it did: `processor`, the handler;
    or, without a run, what had been decided before: `child`, `stalled`, or `deferred` by somebody
    else.
    `def` or `async def`, as for `toril_jobs_saved`.

        @hookimpl
        async def toril_jobs_failed(self, events: Sequence[JobAttemptFailed]) -> None:
            for event in events:
                if event.final:
                    await self.pager.page(f"{event.job.name}: {event.reason}")
    """
    raise NotImplementedError


@hookspec
def toril_jobs_retried(events: Sequence[JobRetried]) -> Done:
    """Finished jobs were put back to run; a next attempt is none (see `toril_jobs_failed`).

    When: after the script, one call per reply, in commit order, at most 1,000 jobs.
    Where: the process in which the retry was asked for.
    `def` or `async def`, as for `toril_jobs_saved`.

        @hookimpl
        def toril_jobs_retried(events: Sequence[JobRetried]) -> None:
            log.info("retried %s", ", ".join(event.job.id for event in events))
    """
    raise NotImplementedError


@hookspec
def toril_jobs_stalled(events: Sequence[JobStalled]) -> Done:
    """Jobs whose worker vanished were put back.

    When: after the script, one call per reply, in commit order, at most 1,000 jobs.
    Where: the worker whose check found them. A job with `fails_next` will be failed by the next
    worker that takes it, which fires `toril_jobs_failed` with the cause `stalled`.
    `def` or `async def`, as for `toril_jobs_saved`.

        @hookimpl
        def toril_jobs_stalled(events: Sequence[JobStalled]) -> None:
            STALLED.inc(len(events))
    """
    raise NotImplementedError


@hookspec
def toril_jobs_removed(events: Sequence[JobRemoved]) -> Done:
    """Jobs left the server; each event holds the job as it was just before.

    When: after the script, one call per reply, in commit order, at most 1,000 jobs. At most once:
    a process that dies in between tells nobody. To copy jobs to safety before they go, use a hook
    of the plugin whose rule removes them.
    Where: the process that removed them: an operator's, a worker's by a rule at a finish, or the
    one that runs a plugin's service. `event.cause`, `plugin` and `rule` say why.
    `def` or `async def`, as for `toril_jobs_saved`.

        @hookimpl
        def toril_jobs_removed(events: Sequence[JobRemoved]) -> None:
            for event in events:
                audit.info("%s went: %s", event.job.id, event.rule or event.cause)
    """
    raise NotImplementedError


@hookspec
def toril_start(context: PluginContext) -> Done:
    """Open what the plugin needs: pools, caches, background work (`context.spawn`).

    When: once per App, before its first operation, in plugin order.
    Where: every process that uses an App with this plugin, on the App's loop.
    `def` or `async def`, at most 30 seconds. An error or a time-out marks the plugin broken and
    withdraws its hooks; if it is required, the App does not start.

        @hookimpl
        async def toril_start(self, context: PluginContext) -> None:
            self.pool = await open_pool(context.config(ArchiveConfig).dsn)
    """
    raise NotImplementedError


@hookspec
def toril_stop(context: PluginContext) -> Done:
    """Close what `toril_start` opened.

    When: once per App, after its last event, in reverse order; also after a failed start, so do
    not rely on all of it having happened. Spawned work has been cancelled before.
    Where: every process in which `toril_start` was called, on the App's loop.
    `def` or `async def`, within what is left of the grace time. An error is logged.

        @hookimpl
        async def toril_stop(self, context: PluginContext) -> None:
            await self.pool.close()
    """
    raise NotImplementedError


@hookspec
def toril_worker_ready(worker: WorkerInfo) -> Done:
    """A worker of this App begins to fetch: readiness probes, registries.

    When: once per worker, after `toril_start`, before its first fetch.
    Where: the worker's process. `def` or `async def`, at most 10 seconds. An error is logged.

        @hookimpl
        def toril_worker_ready(worker: WorkerInfo) -> None:
            Path("/run/ready").touch()
    """
    raise NotImplementedError


@hookspec
def toril_worker_stopped(worker: WorkerInfo) -> Done:
    """A worker has stopped; `worker.given_back` counts the jobs it returned unfinished.

    When: once per worker, after its last event was delivered, before `toril_stop`.
    Where: the worker's process. `def` or `async def`, at most 10 seconds. An error is logged.

        @hookimpl
        def toril_worker_stopped(worker: WorkerInfo) -> None:
            log.info("%s gave %d jobs back", worker.name, worker.given_back)
    """
    raise NotImplementedError


@hookspec
def toril_register(registry: Registry) -> None:
    """Tell what the plugin brings beside hooks: settings, specifications, Lua, services, names.

    When: once per App, before every other hook, while the plugins are loaded; do no I/O.
    Where: every process that uses an App with this plugin, and the command line.
    Plain `def`. An error marks the plugin broken. A name that another plugin has taken puts this
    one out of use, and the message names both distributions.

        @hookimpl
        def toril_register(registry: Registry) -> None:
            registry.setting(Quota)
            registry.lua("finished", 'ctx.emit("toril:quota", {id = ctx.id})')
    """
    raise NotImplementedError


@hookspec
def toril_explain_job(job: JobRef) -> Awaitable[Sequence[Fact]] | Sequence[Fact]:
    """What the plugin knows about a job's present and future, shown by `job.explain()`.

    When: when somebody asks; also about a job that is gone, which counts as known if a plugin
    recalls it or tells a fact about its `state`. Where: the process in which somebody asks.
    `def` or `async def`, at most 10 seconds. An error is logged, and shown as a fact.

        @hookimpl
        async def toril_explain_job(self, job: JobRef) -> Sequence[Fact]:
            copied = await self.pool.fetchval("select 1 from job where id = $1", job.id)
            return [Fact("archive", "copied" if copied else "not copied yet")]
    """
    raise NotImplementedError


@hookspec
def toril_recall_job(job: JobRef) -> Awaitable[Recalled | None] | Recalled | None:
    """What you still know of a job that is gone: how it ended, and what came of it.

    When: a job that does not exist is asked for: by `job.result()`, `queue.recall()`, `explain`,
    the view of a flow, and the commands that show these. The first answer that is not None counts.
    Where: the process that asks.
    `def` or `async def`, at most 10 seconds. An error is logged, and the next plugin is asked.

        @hookimpl
        async def toril_recall_job(self, job: JobRef) -> Recalled | None:
            row = await self.pool.fetchrow("select ended, result from job where id = $1", job.id)
            return row and Recalled("completed", finished=row["ended"], result=row["result"])
    """
    raise NotImplementedError


@hookspec
def toril_audit_queue(audit: Audit) -> Awaitable[Sequence[Finding]] | Sequence[Finding]:
    """What is not as it must be in what your plugin keeps of a queue, for an audit.

    When: somebody audits the queue: `App.audit`, the command `toril audit`. Where: their process.
    `def` or `async def`, at most 10 minutes. It only reads, in small steps, at most `audit.most`
    things; a finding carries what repairs it. An error is logged, and becomes a finding.

        @hookimpl
        async def toril_audit_queue(self, audit: Audit) -> Sequence[Finding]:
            lost = [key for key in audit.keys.get("vault", ()) if key not in self.vault]
            return [Finding("lost", audit.queue, key, "is not in the vault") for key in lost]
    """
    raise NotImplementedError


@hookspec
def toril_erase_job(job: JobRef) -> Awaitable[str | None] | str | None:
    """Erase whatever you keep of a job, and of every earlier one of its id. Say what that was.

    When: `job.erase()` or `queue.erase(id)`, after the job has gone from the server; also if it was
    gone before, and again if somebody erases it again.
    Where: the process that erases. Every plugin is asked.
    `def` or `async def`, at most 10 seconds. An error reaches the caller as `PluginError`: the job
    is not erased completely then. What is returned is shown to people, so nothing of the content:
    `"2 copies"`; None: there was nothing.

        @hookimpl
        async def toril_erase_job(self, job: JobRef) -> str | None:
            copies = await self.pool.execute("delete from job where id = $1", job.id)
            return f"{copies} copies" if copies else None
    """
    raise NotImplementedError
