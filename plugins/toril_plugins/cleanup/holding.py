"""Brings the finished jobs of a queue in line with its holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, cast

from toril.plugins import Json, PluginContext, Said, ServiceContext
from toril_plugins.retention.holds import Holds
from toril_plugins.retention.values import OUTCOMES

IDS_A_CALL: Final = 100

Run: TypeAlias = Callable[[str, Mapping[str, Json]], Coroutine[Any, Any, Any]]
"""Runs a script of the cleanup plugin on one queue."""


class HoldKeeping:
    """Holds and releases on any queue, for `hold` and `release`.

    Args:
        context: the plugin's, once it has been started.
    """

    def __init__(self, context: Callable[[], PluginContext]) -> None:
        self._context = context

    def now(self) -> datetime:
        """The time."""
        return self._context().now()

    async def apply(self, queue: str, /, *, ids: Sequence[str] = ()) -> None:
        """Hold and release what is to be, in slices. `ids`: only these jobs are to be held."""
        context = self._context()

        async def run(script: str, args: Mapping[str, Json]) -> Json:
            return await context.run_script(queue, script, args)

        work = _Pass(run)
        if ids:
            await work.hold(ids)
        else:
            await work.run(await context.live(queue, Holds))


class QueueHolds:
    """What a sweeper knows of the holds of its queue."""

    def __init__(self) -> None:
        self._seen: str | None = None
        self._ends: int | None = None

    async def follow(self, context: ServiceContext, holds: str, run: Run) -> bool:
        """Hold and release, if the holds have changed, or one has ended.

        `holds`: their print; `run` runs the scripts. Returns whether there was
        nothing to do.
        """
        ended = self._ends is not None and context.now_ms() >= self._ends
        if holds == self._seen and not ended:
            return True
        work = _Pass(run)
        await work.run(await context.live(Holds))
        self._seen, self._ends = holds, work.ends
        return work.changed == 0


class _Pass:
    """One pass over the held jobs, and over those that are to be held.

    `changed`: how many jobs were held or released; `ends`: when the next hold ends (ms).
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.changed = 0
        self.ends: int | None = None

    async def run(self, said: Sequence[Said[Holds]]) -> None:
        """Look at all finished jobs only if holds by name or data are new."""
        for outcome in OUTCOMES:
            await self._pages("release", {"outcome": outcome, "skip": 0})
        await self.hold([one.id for each in said for one in each.value.holds if one.id])
        reply = await self._slice("hold", {})
        query = reply["query"]
        if query != reply["sought"]:
            for outcome in OUTCOMES if query else ():
                await self._pages("hold", {"outcome": outcome, "after": "-inf", "skip": 0})
            await self._slice("hold", {"sought": query})
        self.ends = cast("int | None", reply.get("ends"))

    async def hold(self, ids: Sequence[str]) -> None:
        """Hold these jobs, if some hold says so."""
        for start in range(0, len(ids), IDS_A_CALL):
            await self._slice("hold", {"ids": list(ids[start : start + IDS_A_CALL])})

    async def _pages(self, script: str, place: dict[str, Json]) -> None:
        while True:
            started = time.perf_counter()
            reply = await self._slice(script, place)
            if not reply["more"]:
                return
            place |= {part: reply[part] for part in place if part in reply}
            await asyncio.sleep(time.perf_counter() - started)

    async def _slice(self, script: str, args: Mapping[str, Json]) -> dict[str, Any]:
        reply = cast("dict[str, Any]", await self._run(script, args))
        self.changed += reply["changed"]
        return reply
