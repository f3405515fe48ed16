"""The rescue: carries through what somebody has left half done on a queue.

It takes back large flows whose adding broke off. And it fails parents whose failure is decided, and
whom no worker of their queue takes.

A child that fails for good can decide that its parent fails; then the next worker of the parent's
queue carries that out. If there is none, the parent waits for ever, and with it its own parent. So
the process that leads this service for the parent's queue, or for the child's, does it after a
grace time, in one atomic step, as a worker would have done.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from toril.connection.call import only
from toril.protocol import rescuing
from toril.protocol.keys import queue_name
from toril.protocol.large_flows import broken_flows, take_back
from toril.protocol.rescuing import Deferred, Place
from toril.snapshots import JobSnapshot
from toril.worker.deferred import deferred_finish
from toril.worker.turns import planned

if TYPE_CHECKING:
    from toril.runtime import Runtime

log = logging.getLogger("toril.worker")

PERIOD: Final = 15.0
"""Seconds between two looks."""
_BACK_MS: Final = 10 * 60_000
"""How far behind the newest failed child a look goes back, and how often: clocks differ. So often
it also goes to the end, where plugins may keep jobs whose score is no time."""


class Rescue:
    """The rescue of one queue. `run_once` does all that is due.

    Args:
        runtime: The App's. Its option `rescue_after` is the grace time.
        queue: The queue: that of the parents, or that of their children.
    """

    def __init__(self, runtime: Runtime, queue: str) -> None:
        self._runtime = runtime
        self._key = runtime.context.key(queue)
        self._place = Place()
        self._went_back = runtime.clock.now_ms()
        self._whole = True  # this pass goes to the end of the failed children

    async def run_once(self) -> float:
        """Look for parents to fail, and fail them. Returns the seconds until the next look.

        Before that, take back flows that were left unfinished.
        """
        await self._take_back_flows()
        more = True
        while more:
            started = time.perf_counter()
            found = await self._look()
            for key, fields in found.parents.items():
                await self._rescue(key, fields)
            # Those that could not be rescued count as noted now, so that others come.
            more = found.more or len(found.parents) == rescuing.MOST_DEFERRED
            if more:
                await asyncio.sleep(time.perf_counter() - started)  # at most half of the time
        return PERIOD

    async def _take_back_flows(self) -> None:
        runtime, now = self._runtime, self._runtime.clock.now_ms()
        roots: tuple[str, ...] = await runtime.drive(only(broken_flows(self._key, now)))
        for root in roots:
            taking_back = take_back(
                self._key,
                root,
                runtime.context.prefix,
                now=now,
                wants=runtime.dispatcher.wants,
            )
            if await runtime.drive(taking_back):
                log.warning(
                    "the flow of job %s/%s was taken back, as its adding broke off",
                    queue_name(self._key), root,
                )  # fmt: skip

    async def _look(self) -> Deferred:
        now = self._runtime.clock.now_ms()
        if now - self._went_back >= _BACK_MS:
            newest = float(self._place.after)
            self._place = Place(f"{min(newest, now) - _BACK_MS:.0f}" if newest > 0 else "-inf")
            self._went_back, self._whole = now, True
        look = rescuing.deferred(
            self._key,
            now=now,
            before=now - self._runtime.rescue_after,
            place=self._place,
            till=None if self._whole else now + _BACK_MS,
        )
        found: Deferred = await self._runtime.drive(only(look))
        self._place = found.place
        if not found.more:
            self._whole = False
            if float(found.place.after) > now:
                # Of clocks that are ahead, or kept at the end by a plugin: others come before them.
                self._place = Place(str(now))
        return found

    async def _rescue(self, key: str, fields: Mapping[bytes, bytes]) -> None:
        """Fail one parent, unless a worker was faster."""
        runtime = self._runtime
        queue, id = runtime.context.split(key)
        now = runtime.clock.now_ms()
        started = JobSnapshot(queue_name(queue), id, fields).attempts_started
        picked_up = {b"processedOn": b"%d" % now, b"ats": b"%d" % (started + 1)}
        job = JobSnapshot(queue_name(queue), id, {**fields, **picked_up})
        finish = deferred_finish(
            job, f"rescue:{uuid.uuid4()}", job.deferred_failure or "", from_head=True
        )
        finish = planned(runtime.dispatcher, finish, now)
        with runtime.lanes.call() as record:
            code: int = await runtime.drive(
                only(
                    rescuing.rescue(
                        queue,
                        finish,
                        finder=self._key,
                        now=now,
                        record=record,
                        wants=runtime.dispatcher.wants,
                    )
                )
            )
        if code == rescuing.DONE:
            log.warning(
                "job %s/%s (%s) failed without a run, as no worker took it: %s",
                job.queue, job.id, job.name, finish.value,
            )  # fmt: skip
        elif code == rescuing.GARBLED:
            log.error("job %s/%s has to fail, and cannot: it is garbled", job.queue, id)
