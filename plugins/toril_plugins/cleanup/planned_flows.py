"""What becomes of flows that are kept whole, for a plan; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from toril.plugins import Json, PluginContext
from toril_plugins.cleanup.trees import Waits, look


@dataclass(frozen=True, slots=True)
class FlowFate:
    """When a flow goes (ms; None: nobody knows), and what stops it."""

    at: int | None = None
    why_not: str = ""


class PlannedFlows:
    """Looks at each flow once."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._tops: dict[str, FlowFate] = {}
        self._members: dict[tuple[str, str], FlowFate] = {}

    async def of(self, queue: str, id: str) -> FlowFate:
        """The fate of the flow with which this job is kept."""
        known = self._members.get((queue, id))
        if known is not None:
            return known
        (top,) = cast("list[str]", await self._context.run_script(queue, "flow", {"climb": id}))
        if top not in self._tops:
            self._tops[top] = await self._look(top)
        return self._tops[top]

    async def _look(self, top: str) -> FlowFate:
        queue_key, _, top_id = top.rpartition(":")
        queue = queue_key.rpartition(":")[2]
        told = await self._run(queue, "explain", {"id": top_id})
        if not told.get("flow"):  # it has not ended, or is kept by something else
            return FlowFate()
        at = int(told.get("again") or told["at"])
        try:
            levels = await look(self._run, queue, top_id)
        except Waits as wait:
            return FlowFate(at, f"something of its flow stays: {wait}")
        fate = FlowFate(at)
        self._members |= {(each.queue, each.id): fate for level in levels for each in level}
        return fate

    async def _run(self, queue: str, script: str, args: Mapping[str, Json]) -> dict[str, Any]:
        reply = await self._context.run_script(queue, script, {**args, "dry": True})
        return cast("dict[str, Any]", reply)
