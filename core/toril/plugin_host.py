"""What an App does for its plugins, from `toril_start` until after `toril_stop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from toril.clock import Clock
from toril.connection.call import only
from toril.errors import PluginError
from toril.job_events import JobEvent
from toril.metrics import Metrics, Sample
from toril.protocol import reading
from toril.protocol.effects import ChunkError, Effects
from toril.protocol.parts import parts
from toril.protocol.plugin_call import plugin_call
from toril.protocol.reading import FinishedCursor, FinishedPage
from toril.protocol.settings import read_live
from toril.setting import Said, Setting
from toril.snapshots import JobParts, JobSnapshot
from toril.types import STATES, Json, Outcome, State

if TYPE_CHECKING:
    from toril.runtime import Runtime


class PluginHost:
    """See `toril.hooks.context.Host`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def clock(self) -> Clock:
        """The App's clock."""
        return self._runtime.clock

    @property
    def metrics(self) -> Metrics:
        """Where plugins count."""
        return self._runtime.metrics

    def samples(self) -> Sequence[Sample]:
        """All counters and gauges of this process."""
        return self._runtime.samples()

    async def run_script(self, queue: str, plugin: str, script: str, args: Json) -> Json:
        """Run a script that the plugin registered. Raises `PluginError` if it broke."""
        context = self._runtime.context
        call = plugin_call(
            context.key(queue),
            plugin,
            script,
            args,
            now=self.clock.now_ms(),
            wants=context.plugins.wants,
        )
        broken: list[ChunkError] = []

        def parse(reply: Any) -> Effects[Json]:
            effects = call.parse(reply)
            broken.extend(error for error in effects.chunk_errors if error.point == "script")
            return effects

        value: Json = await self._runtime.drive(only(structs.replace(call, parse=parse)))
        if broken:
            raise PluginError(
                f"script {script!r} of plugin {plugin!r} failed on queue {queue!r}: "
                f"{broken[0].message}",
                plugin=plugin,
                hook=script,
            )
        return value

    async def read_jobs(self, queue: str, ids: Sequence[str]) -> Sequence[JobSnapshot | None]:
        """Jobs by their ids."""
        return await self._runtime.drive(reading.jobs(self._runtime.context.key(queue), ids))

    async def read_parts(self, queue: str, ids: Sequence[str]) -> Sequence[JobParts]:
        """What is stored of jobs beside their hashes."""
        return await self._runtime.drive(parts(self._runtime.context.key(queue), ids))

    async def read_finished(
        self,
        queue: str,
        outcome: Outcome,
        after: FinishedCursor | None,
        limit: int,
        before: int | None,
    ) -> FinishedPage:
        """A page of finished jobs."""
        key = self._runtime.context.key(queue)
        page = reading.finished_page(key, outcome, after, limit, before=before)
        return await self._runtime.drive(only(page))

    async def read_counts(self, queue: str) -> Mapping[State, int]:
        """How many jobs are in each state."""
        counting = reading.counts(self._runtime.context.key(queue), STATES)
        return await self._runtime.drive(only(counting))

    async def read_live(self, queue: str, kind: type[Setting]) -> Sequence[Said[Any]]:
        """What is said for the queue as a whole, most specific first."""
        return await self._runtime.drive(only(read_live(self._runtime.context.key(queue), kind)))

    async def run_services(self, queue: str) -> bool:
        """Run the plugins' services of a queue here and now."""
        return await self._runtime.run_services(queue)

    async def publish(self, events: Sequence[JobEvent]) -> None:
        """Tell the plugins of events."""
        await self._runtime.dispatcher.publish(events)
