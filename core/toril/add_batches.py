"""Adding jobs of one queue from many tasks at once: one call for all that came meanwhile."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from toril.connection.call import at_once
from toril.connection.line import Line
from toril.errors import IndeterminateError, JobError
from toril.job_events import JobEvent
from toril.new_job import Drafted
from toril.operations import QueueOperations, in_one_call
from toril.protocol.adding import MOST_ADDED, NewNode
from toril.runtime import Runtime
from toril.snapshots import JobSnapshot

_Waiting: TypeAlias = "tuple[NewNode, asyncio.Future[JobSnapshot]]"

MOST_UNDER_WAY: Final = 2
"""Calls of one queue."""
WORTH_A_CALL: Final = 25
"""Jobs that are sent behind a call that is under way; fewer wait for its reply."""

_inherited: list[object] = []


class AddBatches:
    """The adds of one queue, in the order in which they came.

    A lone add is sent at once; what comes while a call is under way goes out together in the next
    one. Where many come a second call goes out behind the first, so that the server need not wait
    for this process, nor this process for the server. Each job is added, or refused, for itself;
    `add` returns when the plugins have heard of it. Who is cancelled takes back a job that has not
    been sent; one that has been is added, and the plugins hear of it.
    """

    def __init__(self, runtime: Runtime, operations: QueueOperations) -> None:
        self._runtime = runtime
        self._operations = operations
        self._waiting: list[_Waiting]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._senders: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[None]] = set()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on a loop. What waits on another one is sent there: it is of the parent process."""
        if self._senders:
            _inherited.append(self._senders)
        self._loop = loop
        self._waiting = []
        self._senders = set()
        self._under_way = 0  # calls; a sender without one has just been started
        self._line = Line()
        self._planning = asyncio.Lock()

    async def add(self, drafted: Drafted) -> JobSnapshot:
        """Plan the job, and add it. Raises what `Queue.add` raises."""
        if not self._runtime.is_ready(self._operations.name):
            await self._runtime.prepare((self._operations.name,))
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._start(loop)
        planning = self._operations.planned((drafted,))
        if self._operations.plans_at_once and not self._planning.locked():
            (node,) = at_once(planning)
        else:
            async with self._planning:  # what is to be read first must not change the order
                (node,) = await self._runtime.drive(planning)
        saved: asyncio.Future[JobSnapshot] = loop.create_future()
        self._waiting.append((node, saved))
        senders = len(self._senders)
        starting = senders - self._under_way
        if not senders or (
            senders < MOST_UNDER_WAY and len(self._waiting) >= WORTH_A_CALL * (starting + 1)
        ):
            self._senders.add(loop.create_task(self._send()))
        return await saved

    async def settled(self) -> None:
        """Wait until nothing is under way; also what a cancelled caller has left."""
        here = asyncio.get_running_loop()
        while under_way := [
            task for task in (*self._senders, *self._telling) if task.get_loop() is here
        ]:
            await asyncio.wait(under_way)

    async def _send(self) -> None:
        try:
            while batch := self._batch():
                self._under_way += 1
                try:
                    await self._save(batch)
                finally:
                    self._under_way -= 1
        finally:
            # Not when the loop comes to it: who adds until then would wait for this sender.
            self._senders.remove(cast("asyncio.Task[None]", asyncio.current_task()))

    def _batch(self) -> Sequence[_Waiting]:
        """What the next call adds: nothing if a call that is under way is to end before it."""
        if len(self._waiting) == 1 and not self._under_way and not self._waiting[0][1].done():
            lone, self._waiting = self._waiting, []
            return lone
        # Who was cancelled before the job was sent does not want it any more.
        self._waiting = wanted = [each for each in self._waiting if not each[1].done()]
        if self._under_way and len(wanted) < WORTH_A_CALL:
            return ()
        senders = len(self._senders) - self._under_way
        share = min(-(-len(wanted) // senders), MOST_ADDED)
        # One call: what becomes of another one is nothing to those in this one.
        count = in_one_call([node for node, _ in wanted[:share]])
        self._waiting = wanted[count:]
        return wanted[:count]

    async def _save(self, batch: Sequence[_Waiting]) -> None:
        saved: Sequence[JobSnapshot | Exception]
        nodes = [node for node, _ in batch]
        untold: list[JobEvent] = []
        try:
            saved = await self._runtime.drive(
                self._operations.save_in_one(nodes), untold, self._line
            )
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            saved = [of_one(error, node) for node in nodes]
        if not untold:
            _answer(batch, saved)
            return
        # A plugin may add to this very queue meanwhile, so the next call waits for no plugin.
        telling = asyncio.create_task(self._tell(untold, batch, saved))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(
        self,
        events: Sequence[JobEvent],
        batch: Sequence[_Waiting],
        saved: Sequence[JobSnapshot | Exception],
    ) -> None:
        try:
            await self._runtime.dispatcher.publish(events)
        finally:
            _answer(batch, saved)


def _answer(batch: Sequence[_Waiting], saved: Sequence[JobSnapshot | Exception]) -> None:
    for (_, future), result in zip(batch, saved, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def of_one(error: Exception, node: NewNode) -> Exception:
    """What a failure of the whole call means to one of its jobs."""
    if isinstance(error, JobError):
        return error
    indeterminate = isinstance(error, IndeterminateError)
    one = IndeterminateError(str(error), (node.id,)) if indeterminate else copy.copy(error)
    one.__cause__ = error.__cause__
    return one
