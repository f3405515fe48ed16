"""Telling the plugins what happened, and asking them before a job is finished.

The one place in which events become hook calls. One dispatcher belongs to one App.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, TypeVar

import msgspec

from toril.errors import PluginError, Reject
from toril.hooks.around import Around
from toril.hooks.context import Fact, WorkerInfo
from toril.hooks.function import HookFunction, Run, Settle, complete, settle, settle_on
from toril.hooks.plugin_set import PluginSet
from toril.job_events import (
    JobAttemptFailed,
    JobCompleted,
    JobEvent,
    JobRemoved,
    JobRetried,
    JobSaved,
    JobStalled,
)
from toril.protocol.effects import Effects
from toril.snapshots import FinishedJob, JobRef, JobSnapshot, Recalled
from toril.types import Json

T = TypeVar("T")

HOOK_OF: Final[Mapping[type[JobEvent], str]] = {
    JobSaved: "toril_jobs_saved",
    JobCompleted: "toril_jobs_completed",
    JobAttemptFailed: "toril_jobs_failed",
    JobRetried: "toril_jobs_retried",
    JobStalled: "toril_jobs_stalled",
    JobRemoved: "toril_jobs_removed",
}
"""The hook that each kind of event belongs to."""

BATCH: Final = 1_000
"""The most events of one hook call."""


@dataclass(frozen=True, slots=True)
class FinishPlan:
    """What the plugins planned for a job about to be finished.

    `plans` are their answers by plugin, those that are not None; `undecided`: one of them broke.
    """

    plans: Mapping[str, Json] = field(default_factory=dict[str, "Json"])
    undecided: bool = False


_NO_PLAN: Final = FinishPlan()
_NOTHING_AROUND: Final = contextlib.nullcontext()


class LuaError(Exception):
    """A plugin's Lua broke; it harmed no job."""


class Dispatcher:
    """Calls the hooks of one App's plugins, each plugin on its own."""

    def __init__(self, plugins: PluginSet) -> None:
        self._plugins = plugins

    @property
    def wants(self) -> frozenset[str]:
        """The event hooks that somebody implements; no other events need to be made."""
        return self._plugins.wants

    def may_plan_finish(self, job: JobSnapshot) -> bool:
        """Whether some plugin is to be asked about the finish of this job."""
        for function in self._plugins.functions("toril_plan_finish"):
            if function.may_concern(job):
                return True
        return False

    def plan_finish(self, job: FinishedJob) -> FinishPlan:
        """Ask every plugin about a job about to be finished. Never raises for a plugin."""
        functions = self._plugins.functions("toril_plan_finish")
        if not functions:
            return _NO_PLAN
        plans: dict[str, Json] = {}
        undecided = False
        arguments = {"job": job}

        def about() -> str:
            return f"{job.queue}/{job.id}"

        for function in functions:
            if not function.may_concern(job):
                continue
            try:
                plan = function.plain(arguments, about)
                if plan is not None:
                    plans[function.plugin] = _plain_value(function, plan, about)
            except Reject as reject:
                function.failed(TypeError(f"a finish cannot be refused ({reject})"), about)
                undecided = True
            except PluginError:
                undecided = True
        return FinishPlan(plans, undecided)

    def around(self, job: JobSnapshot) -> AbstractContextManager[None]:
        """What is to be entered while the handler runs the job. Never raises for a plugin."""
        functions = self._plugins.functions("toril_around_job")
        return Around(functions, job) if functions else _NOTHING_AROUND

    def note(self, effects: Effects[Any]) -> None:
        """Log and count what plugins' Lua did wrong in a call, and pass on what it reported."""
        for error in effects.chunk_errors:
            guard = self._plugins.function(error.plugin, f"its Lua at {error.point!r}")
            guard.counts.calls += 1
            guard.failed(LuaError(error.message), lambda: "")
        if not effects.reports:
            return
        takers = self._plugins.report_takers
        for report in effects.reports:
            taker = takers.get(report.plugin)
            if taker is not None:
                guard = self._plugins.function(report.plugin, "what takes its reports", taker)
                with contextlib.suppress(PluginError, Reject):
                    guard.ask(value=report.value)

    async def publish(self, events: Sequence[JobEvent]) -> None:
        """Tell the plugins, on this loop, in commit order; returns when all have been told."""
        await self._publish(events, settle)

    def publish_sync(self, events: Sequence[JobEvent], run: Run) -> None:
        """The same without a loop: plain functions are called here, and `run` does the others."""
        complete(self._publish(events, settle_on(run)))

    async def _publish(self, events: Sequence[JobEvent], wait: Settle) -> None:
        for kind, group in groupby(events, type):
            functions = self._plugins.functions(HOOK_OF[kind])
            for batch in _batches(group) if functions else ():
                for function in functions:
                    await _tell(function, {"events": batch}, wait, _Named(batch))

    async def worker_ready(self, worker: WorkerInfo) -> None:
        """A worker begins to fetch."""
        await self._each("toril_worker_ready", worker)

    async def worker_stopped(self, worker: WorkerInfo) -> None:
        """A worker has stopped."""
        await self._each("toril_worker_stopped", worker)

    async def _each(self, hook: str, worker: WorkerInfo) -> None:
        for function in self._plugins.functions(hook):
            await _tell(function, {"worker": worker}, settle, lambda: worker.name)

    async def explain(self, job: JobRef) -> tuple[tuple[str, Fact], ...]:
        """What the plugins know about a job: plugin and fact. One that breaks says so as a fact."""
        facts: list[tuple[str, Fact]] = []
        if job.prefix is not None:  # plugins look up names under the prefix of their App
            return ()
        for function in self._plugins.functions("toril_explain_job"):
            try:
                told: Iterable[Fact] = await function.ask_async(job=job)
                facts += [(function.plugin, fact) for fact in told or ()]
            except PluginError as error:
                facts.append((function.plugin, Fact("error", str(error))))
        return tuple(facts)

    async def recall(self, job: JobRef) -> Recalled | None:
        """What plugins still know of a job that is gone: the first answer."""
        if job.prefix is not None:
            return None
        for function in self._plugins.functions("toril_recall_job"):
            with contextlib.suppress(PluginError):
                told = await _asked(function, job, Recalled)
                if told is not None:
                    return replace(told, told_by=function.plugin)
        return None

    async def erase(self, job: JobRef) -> Mapping[str, str]:
        """Let every plugin erase what it keeps of a job; what that was, by plugin.

        Raises:
            PluginError: Of the first that broke; the others have done it all the same.
        """
        erased: dict[str, str] = {}
        broken: list[PluginError] = []
        for function in self._plugins.functions("toril_erase_job"):
            try:
                told = await _asked(function, job, str)
                if told is not None:
                    erased[function.plugin] = told
            except PluginError as error:
                broken.append(error)
        if broken:
            broken[0].add_note(
                f"job {job.id!r} of queue {job.queue!r} is not erased completely; erasing it again "
                "does what is left to do"
            )
            raise broken[0]
        return erased


@dataclass(frozen=True, slots=True)
class _Named:
    """The first jobs of a batch by name, for the log."""

    events: Sequence[JobEvent]

    def __call__(self) -> str:
        first = ", ".join(f"{event.job.queue}/{event.job.id}" for event in self.events[:3])
        more = len(self.events) - 3
        return f"{first} and {more} more" if more > 0 else first


async def _asked(function: HookFunction, job: JobRef, kind: type[T]) -> T | None:
    """The answer about a job. Raises `PluginError` if it is of another kind."""
    told: object = await function.ask_async(job=job)
    if told is None or isinstance(told, kind):
        return told
    wrong = TypeError(f"it returned {told!r:.80}, which is no {kind.__name__}")
    raise function.failed(wrong, lambda: f"{job.queue}/{job.id}")


def _batches(events: Iterable[JobEvent]) -> Iterator[tuple[JobEvent, ...]]:
    every = tuple(events)
    for start in range(0, len(every), BATCH):
        yield every[start : start + BATCH]


async def _tell(
    function: HookFunction, arguments: Mapping[str, object], wait: Settle, about: Callable[[], str]
) -> None:
    # It is logged and counted; what one plugin cannot take harms nobody else.
    with contextlib.suppress(PluginError):
        await function.guarded(arguments, wait, about)


def _plain_value(function: HookFunction, plan: object, about: Callable[[], str]) -> Json:
    """`plan` in the types that a script can be given.

    Raises:
        PluginError: it has none; a finish must not fail when its request is written.
    """
    try:
        value: Json = msgspec.to_builtins(plan, str_keys=True)
        msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise function.failed(error, about) from error
    return value
