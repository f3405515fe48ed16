"""Option persistence: what was said for a job is saved with it and holds whoever finishes it.

Stored twice: exactly, with who said it (Toril's own field), and in BullMQ's options, so that a
worker in another language keeps to it as well. What nobody said for the job itself is not written:
a value of the queue, a worker or the application in the options would beat what a foreign worker
is configured with, and would freeze what is meant to change.
"""

from __future__ import annotations

from toril import hookimpl
from toril.plugins import OWN_LEVELS, Draft, Json, Registry, Said, SavePlan
from toril_plugins.retention.bullmq import OPTION, to_option
from toril_plugins.retention.resolve import resolve
from toril_plugins.retention.values import OUTCOMES, Retention


class Persistence:
    """Saves the settings said for a job, its flow or its schedule template with the job."""

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Retention)

    @hookimpl(trylast=True)
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        own = [said for said in draft.said if said.level in OWN_LEVELS]
        if not own:
            return None
        retention: list[Said[Retention]] = [
            said for said in own if isinstance(said.value, Retention)
        ]
        opts: dict[str, Json] = {}
        for outcome in OUTCOMES:
            resolution = resolve(retention, outcome)
            if resolution.said is not None:
                opts[OPTION[outcome]] = to_option(resolution.keep)
        return SavePlan(opts=opts, settings=own)
