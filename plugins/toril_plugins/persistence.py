"""Option persistence: what was said for a job is saved with it and holds whoever finishes it.

Stored twice: exactly, with who said it (Toril's own field), and in BullMQ's options, so that a
worker in another language keeps to it as well. What nobody said for the job itself is not written:
a value of the queue, a worker or the application in the options would beat what a foreign worker
is configured with, and would freeze what is meant to change. Only a queue that isolates its jobs,
or requires plugins, tells foreign workers to keep every job; Toril itself takes no notice of that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from toril import hookimpl
from toril.plugins import (
    OWN_LEVELS,
    Draft,
    Json,
    Outcome,
    PluginContext,
    Registry,
    Said,
    SavePlan,
    only_when_said,
)
from toril_plugins.retention.bullmq import OPTION, to_option
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.resolve import TOLD, resolve
from toril_plugins.retention.values import OUTCOMES, Keep, Retention

log = logging.getLogger("toril.persistence")

LOOK_AGAIN: Final = 600_000
"""Milliseconds after which it is asked again whether an isolated queue is swept."""
_SWEPT = "return redis.call('EXISTS', ctx.q .. ':toril:lease:sweep') == 1"


class Persistence:
    """Saves the settings said for a job, its flow or its schedule template with the job."""

    def __init__(self) -> None:
        self._looked: dict[str, int] = {}

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Retention)
        registry.setting(Foreign, at_save=True)
        registry.setting(Requires, at_save=True)
        registry.script("swept", _SWEPT)

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self._context = context

    @hookimpl(trylast=True)
    @only_when_said
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        own = [said for said in draft.said if said.level in OWN_LEVELS]
        requires, foreign = draft.live(Requires), draft.live(Foreign)
        isolated = bool(foreign) and foreign[0].value.mode == "isolate"
        if not own and not requires and not isolated:
            return None
        retention: list[Said[Retention]] = [
            said for said in own if isinstance(said.value, Retention)
        ]
        keeps: dict[Outcome, Keep] = {}
        for outcome in OUTCOMES:
            resolution = resolve(retention, outcome)
            if resolution.said is not None:
                keeps[outcome] = resolution.keep
        if not requires and not isolated:
            return SavePlan(opts=_options(keeps), settings=own)
        if isolated:
            self._look_for_sweeper(draft.queue)
        opts: dict[str, Json] = {
            OPTION[outcome]: bool(not requires and outcome in keeps and keeps[outcome].is_nothing)
            for outcome in OUTCOMES
        }
        told: list[Json] = [outcome for outcome in OUTCOMES if outcome not in keeps]
        return SavePlan(opts=opts, settings=own, field={TOLD: told} if told else None)

    def _look_for_sweeper(self, queue: str) -> None:
        """Warn, now and then, where a queue keeps its jobs from foreigners and nobody sweeps it."""
        now = self._context.now_ms()
        looked = self._looked.get(queue)
        if looked is None or now - looked >= LOOK_AGAIN:
            self._looked[queue] = now
            self._context.spawn(self._warn_unless_swept(queue))

    async def _warn_unless_swept(self, queue: str) -> None:
        if not await self._context.run_script(queue, "swept"):
            log.warning(
                "queue %s tells foreign workers to keep its jobs (isolate), and no process of "
                "Toril sweeps it now: they stay until a worker, or `toril sweep`, does",
                queue,
            )


def _options(keeps: Mapping[Outcome, Keep]) -> dict[str, Json]:
    """What is said, as foreign workers understand it."""
    return {OPTION[outcome]: to_option(keep) for outcome, keep in keeps.items()}
