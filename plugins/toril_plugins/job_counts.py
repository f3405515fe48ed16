"""Counts of jobs as gauges: how many are in each state, for whatever exporter is in use.

    [job_counts]
    queues = ["emails", "reports"]

in the configuration turns it on. The names are BullMQ's, as in `queue.prometheus()`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from toril import hookimpl
from toril.plugins import PluginContext, Registry, ServerError, milliseconds

log = logging.getLogger("toril.job_counts")

NAME = "bullmq_job_count"


@dataclass(frozen=True, slots=True)
class JobCountsConfig:
    """Options of the plugin `job_counts`.

    Args:
        queues: whose jobs are counted.
        period: how often; one call to the server for each queue.
    """

    queues: tuple[str, ...]
    period: str = "15s"

    def __post_init__(self) -> None:
        if milliseconds(self.period) < 10:
            raise ValueError(f"period {self.period!r} is below 10ms: counting would never pause")


class JobCounts:
    """Counts the jobs of some queues now and then. Off until it has a table in the configuration.

    Every process that has it shows the same counts: take the highest of them, or one process.
    """

    toril_name = "job_counts"
    toril_off_until_configured = True

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(JobCountsConfig)

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        config = context.config(JobCountsConfig)
        context.spawn(self._count(context, config))

    async def _count(self, context: PluginContext, config: JobCountsConfig) -> None:
        failing = False
        while True:
            try:
                for queue in config.queues:
                    for state, count in (await context.counts(queue)).items():
                        context.gauge(NAME, count, queue=queue, state=state)
                failing = False
            except ServerError as error:
                level = logging.DEBUG if failing else logging.WARNING
                log.log(level, "jobs could not be counted: %s", error)
                failing = True
            await asyncio.sleep(milliseconds(config.period) / 1000)
