"""The cleanup plugin."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from toril import PluginError, hookimpl
from toril.plugins import (
    Audit,
    Fact,
    Finding,
    FinishedJob,
    JobRef,
    JobSnapshot,
    Json,
    PluginContext,
    Registry,
    WorkerInfo,
    milliseconds,
    only_for,
)
from toril_plugins.cleanup.audit import QueueAudit
from toril_plugins.cleanup.carrier import QueueCarrier
from toril_plugins.cleanup.deciding import Answers, Combine, Decider
from toril_plugins.cleanup.explaining import explain
from toril_plugins.cleanup.holding import HoldKeeping
from toril_plugins.cleanup.journal import QueueJournal
from toril_plugins.cleanup.planning import Means, QueuePlanner
from toril_plugins.cleanup.recall import Recalling
from toril_plugins.cleanup.reviewing import COPY, REVIEW, Careful
from toril_plugins.cleanup.slices import DEFAULT_PACE, Pace
from toril_plugins.cleanup.sweeper import Sweeper
from toril_plugins.retention import hookspecs
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.holds import Holds
from toril_plugins.retention.journal import SCRIPT as JOURNAL
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.resolve import may_have_own_value
from toril_plugins.retention.values import OUTCOMES, Ceiling, IdWindow, Keep, Retention

log = logging.getLogger("toril.cleanup")

HOOK = "toril_plan_retention"


def _lua(*names: str) -> str:
    """Lua parts of this plugin in one, below the part that all of them share."""
    return "\n".join(map(_text, ("base", *names)))


def _text(name: str) -> str:
    return files("toril_plugins.cleanup").joinpath(f"{name}.lua").read_text("utf-8")


def _fields(*names: str) -> tuple[str, ...]:
    return tuple(f"toril.{name}.{outcome}" for name in names for outcome in OUTCOMES)


SAID: Final = (
    *_fields("retention", "ceiling", "cleanup.own", "cleanup.seq", "cleanup.floor"),
    *("toril.holds.list", "toril.requires.plugins", "toril.idwindow.ms"),
)
"""Fields of `meta`: where none is, finished jobs about which nothing was decided simply stay."""


@dataclass(frozen=True, slots=True)
class CleanupConfig:
    """Options of the plugin `cleanup`.

    Args:
        combine: which answer holds when several plugins have a strategy: the `first` in plugin
            order, the `longest` or the `shortest`.
        period: time between two sweeps of a queue; a job goes at most that long after its age.
        report_only: remove nothing; what would be removed is counted and logged.
        slice: the most jobs that one script of a sweep removes, 1 to 100: others wait meanwhile.
            Where jobs are reviewed or copied, 50 are handed over at once.
        rest: after each slice the sweep rests for so many times as long as the call took; for less
            while more jobs finish than go.
    """

    combine: Combine = "first"
    period: str = "5s"
    report_only: bool = False
    slice: int = DEFAULT_PACE.slice
    rest: float = DEFAULT_PACE.rest

    def __post_init__(self) -> None:
        if milliseconds(self.period) < 100:
            raise ValueError(f"period {self.period!r} is below 100ms: sweeping would never pause")
        if not 1 <= self.slice <= 100:
            raise ValueError(f"slice must be between 1 and 100 jobs, not {self.slice!r}")
        if not 0 <= self.rest <= 1000:
            raise ValueError(f"rest must be between 0 and 1000 times a slice, not {self.rest!r}")


class Cleanup(Recalling):
    """Removes finished jobs when what was said about them falls due."""

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(CleanupConfig)
        registry.setting(Retention)
        registry.setting(Ceiling)
        registry.setting(Holds)
        registry.setting(Requires)
        registry.setting(Foreign)
        registry.setting(IdWindow)
        registry.hookspecs(hookspecs)
        finished = ("gate", "holds", "indexes", "said", "deciding", "holding", "finished")
        registry.lua("finished_batch", _lua(*finished), only_with=SAID, look=_text("look"))
        removed = _text("removed") + "\n" + _lua("said", "tombstone", "indexes", "removed_rest")
        registry.lua("removed", removed, meta=SAID)
        registry.lua("restored", _lua("restored"), meta=SAID)
        guards = ("toril.holds.list", "toril.requires.plugins")
        registry.lua("removing", _lua("holds", "gate", "keeping"), meta=guards)
        for script in ("hold", "release"):
            parts = ("holds", "gate", "indexes", "said", "deciding", "holding", script)
            registry.script(script, _lua(*parts))
        registry.script(JOURNAL, _lua("journal"))
        registry.name("retention", "holds", HoldKeeping(lambda: self._context))
        registry.name("retention", "journal", QueueJournal(lambda: self._context))
        beside = ("holds", "gate", "indexes", "said", "deciding", "holding", "handing")
        for script in ("adopt", "settle", "buckets", "reconcile", "tree_look", "tree_remove"):
            registry.script(script, _lua(*beside, script))
        for script in ("sweep", "decide"):
            registry.script(script, _lua(*beside, "steps", script))
        registry.lua("adding", _text("adding"), meta=("toril.idwindow.ms",))
        registry.script("recall", _text("recall"))
        registry.name("retention", "planner", QueuePlanner(self._means))
        registry.name("retention", "carrier", QueueCarrier(lambda: self._context))
        registry.script(
            "sample", _lua("holds", "gate", "indexes", "said", "deciding", "holding", "sample")
        )
        registry.script("figures", _lua("gate", "indexes", "figures"))
        registry.script("drift", _lua("indexes", "drift"))
        registry.script("explain", _lua("holds", "gate", "indexes", "explain"))
        for script in ("flow", "erase"):
            registry.script(script, _lua("indexes", script))
        registry.service("sweep", self._sweeper)
        registry.reports(self._note_gone)

    def _note_gone(self, told: Sequence[Any]) -> None:
        """Count what the scripts report: jobs that have gone, or that may not go yet."""
        key, what, outcome, why, count = told
        queue = str(key).rpartition(":")[2]
        name = f"toril_{what}_total"
        if what == "removed":
            self._context.count(name, count, queue=queue, outcome=outcome, by=why)
        else:
            self._context.count(name, count, queue=queue, outcome=outcome, why=why)

    @hookimpl(trylast=True)
    def toril_start(self, context: PluginContext) -> None:
        self._context = context
        config = context.config(CleanupConfig)
        self._period = milliseconds(config.period) / 1000
        strategies = context.implementations(HOOK)

        def ask(job: FinishedJob) -> Answers:
            answers: list[tuple[str, Keep]] = []
            for plugin, answer in context.call(HOOK, job=job):
                if answer is not None and not isinstance(answer, Keep):
                    raise PluginError(
                        f"plugin {plugin!r} answered {HOOK} with {answer!r}, not with a Keep",
                        plugin=plugin,
                        hook=HOOK,
                    )
                if answer is not None:
                    answers.append((plugin, answer))
            return answers

        self._decider = Decider(ask if strategies else None, config.combine)
        self._careful = Careful(context.implementations(REVIEW), context.implementations(COPY))
        self._report_only = config.report_only
        self._pace = Pace(config.slice, config.rest)
        self._plan = self._plan_of_live_job()

    def _plan_of_live_job(self) -> Mapping[str, Json]:
        """The plan of a job that follows its queue's live rule."""
        plan: dict[str, Json] = {}
        if self._decider.ask is not None:
            plan["asking"] = True
        if self._careful or self._report_only:
            plan["careful"] = True
        return plan

    def _means(self) -> Means:
        """What a plan is made with, and what it rests on."""
        hooks = (HOOK, REVIEW, COPY)
        used = {hook: self._context.implementations(hook) for hook in hooks}
        world = {
            f"plugins with {hook}": ", ".join(
                f"{each.plugin} ({each.version})" for each in functions
            )
            for hook, functions in used.items()
        }
        world["options of cleanup"] = f"combine {self._decider.combine}"
        return Means(self._context, self._decider, world, report_only=self._report_only)

    def _sweeper(self) -> Sweeper:
        return Sweeper(
            self._decider,
            self._careful,
            self._period,
            self._say_missing,
            report_only=self._report_only,
            pace=self._pace,
        )

    def _say_missing(self, queue: str, missing: str) -> None:
        """Say once that nothing goes here, as a plugin is missing that the queue requires."""
        if missing and missing != self._missing.get(queue):
            log.warning(
                "queue %s requires the plugin %s, which this process does not run: "
                "it removes no finished job of the queue", queue, missing,
            )  # fmt: skip
        self._missing[queue] = missing

    @hookimpl
    async def toril_worker_ready(self, worker: WorkerInfo) -> None:
        carried = await QueueCarrier(lambda: self._context).carrying_out(worker.queue)
        self._say_missing(worker.queue, carried.missing)

    def _may_plan(self, job: JobSnapshot) -> bool:
        return bool(self._plan) or may_have_own_value(job)

    @hookimpl(trylast=True)
    @only_for(_may_plan)
    def toril_plan_finish(self, job: FinishedJob) -> Json:
        decision = self._decider.decide(job)
        if decision is None:
            return dict(self._plan) or None
        return {**self._plan, "decision": decision.encode()}

    @hookimpl(trylast=True)
    async def toril_audit_queue(self, audit: Audit) -> Sequence[Finding]:
        return await QueueAudit(self._context, audit, round(self._period * 1000)).run()

    @hookimpl(trylast=True)
    async def toril_explain_job(self, job: JobRef) -> Sequence[Fact]:
        return await explain(self._context, job)
