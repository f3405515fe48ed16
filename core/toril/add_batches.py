"""Adding jobs of one queue from many tasks at once: one call for all that came meanwhile."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import TypeAlias

from toril.connection.call import at_once
from toril.errors import IndeterminateError, JobError
from toril.job_events import JobEvent
from toril.new_job import Drafted
from toril.operations import QueueOperations, in_one_call
from toril.protocol.adding import MOST_ADDED, NewNode
from toril.runtime import Runtime
from toril.snapshots import JobSnapshot

_Waiting: TypeAlias = "tuple[NewNode, asyncio.Future[JobSnapshot]]"

_inherited: list[object] = []


class AddBatches:
    """The adds of one queue, in the order in which they came.

    One call is under way at a time. A lone add is sent at once; what comes while a call is under
    way goes out together in the next one. Each job is added, or refused, for itself; `add` returns
    when the plugins have heard of it. Who is cancelled takes back a job that has not been sent; one
    that has been is added, and the plugins hear of it.
    """

    def __init__(self, runtime: Runtime, operations: QueueOperations) -> None:
        self._runtime = runtime
        self._operations = operations
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._planning = asyncio.Lock()
        self._telling: set[asyncio.Task[None]] = set()

    async def add(self, drafted: Drafted) -> JobSnapshot:
        """Plan the job, and add it. Raises what `Queue.add` raises."""
        if not self._runtime.is_ready(self._operations.name):
            await self._runtime.prepare((self._operations.name,))
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._planning = loop, asyncio.Lock()
        planning = self._operations.planned((drafted,))
        if self._operations.plans_at_once and not self._planning.locked():
            (node,) = at_once(planning)
        else:
            async with self._planning:  # what is to be read first must not change the order
                (node,) = await self._runtime.drive(planning)
        if self._sender is not None and self._sender.get_loop() is not loop:
            # Of the process that this one was forked from, which sends what waits there.
            _inherited.append(self._sender)
            self._waiting, self._sender = [], None
        saved: asyncio.Future[JobSnapshot] = loop.create_future()
        self._waiting.append((node, saved))
        if self._sender is None:
            self._sender = loop.create_task(self._send())
        return await saved

    async def settled(self) -> None:
        """Wait until nothing is under way; also what a cancelled caller has left."""
        here = asyncio.get_running_loop()
        while under_way := [
            task for task in (self._sender, *self._telling) if task and task.get_loop() is here
        ]:
            await asyncio.wait(under_way)

    async def _send(self) -> None:
        try:
            while self._waiting:
                # Who was cancelled before the job was sent does not want it any more.
                wanted = [each for each in self._waiting if not each[1].done()]
                # One call: what becomes of another one is nothing to those in this one.
                count = in_one_call([node for node, _ in wanted[:MOST_ADDED]])
                self._waiting = wanted[count:]
                if count:
                    await self._save(wanted[:count])
        finally:
            self._sender = None

    async def _save(self, batch: Sequence[_Waiting]) -> None:
        saved: Sequence[JobSnapshot | Exception]
        nodes = [node for node, _ in batch]
        untold: list[JobEvent] = []
        try:
            saved = await self._runtime.drive(self._operations.save(nodes), untold)
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
