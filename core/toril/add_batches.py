"""Adding jobs of one queue from many tasks at once: one call for all that came meanwhile."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from toril.connection.begun import Begun
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


class _Batch(msgspec.Struct, eq=False):
    """Jobs that are added in one call, and what plugins shall hear of it."""

    owner: AddBatches
    jobs: Sequence[_Waiting]
    nodes: Sequence[NewNode]
    untold: list[JobEvent] = []
    begun: object = None  # kept in a forked child, too, which must not close it

    def ended(self, begun: Begun[list[JobSnapshot | JobError]]) -> None:
        """The call has ended."""
        self.owner.ended(self, begun)


class AddBatches:
    """The adds of one queue, in the order in which they came.

    A lone add is sent at once, in the step of the loop in which it was asked for; what comes while
    a call is under way goes out together in the next one. Where many come a second call goes out
    behind the first, so that the server need not wait for this process, nor this process for the
    server. Each job is added, or refused, for itself; `add` returns when the plugins have heard of
    it. Who is cancelled takes back a job that has not been sent; one that has been is added, and
    the plugins hear of it.
    """

    def __init__(self, runtime: Runtime, operations: QueueOperations) -> None:
        self._runtime = runtime
        self._operations = operations
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: list[_Batch] = []
        self._telling: set[asyncio.Task[None]] = set()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on a loop. What waits on another one is sent there: it is of the parent process."""
        if self._under_way:
            _inherited.append(self._under_way)
        self._loop = loop
        self._waiting: list[_Waiting] = []
        self._under_way = []
        self._quiet: asyncio.Event | None = None  # for who waits until nothing is under way
        self._sending = False  # whether the loop is to send when it comes round
        self._together = 1  # jobs of the last call
        self._line = Line()
        self._planning = asyncio.Lock()

    async def add(self, drafted: Drafted) -> JobSnapshot:
        """Plan the job, and add it. Raises what `Queue.add` raises."""
        if not self._runtime.is_ready(self._operations.name):
            await self._runtime.prepare((self._operations.name,))
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._start(loop)
        node = None if self._planning.locked() else self._operations.planned_now(drafted)
        if node is None:
            async with self._planning:  # what is to be read first must not change the order
                (node,) = await self._runtime.drive(self._operations.planned((drafted,)))
        saved: asyncio.Future[JobSnapshot] = loop.create_future()
        self._waiting.append((node, saved))
        if self._together == 1 and len(self._waiting) == 1 and not self._under_way:
            self._send()
        elif self._may_send:
            self._send_soon(loop)
        return await saved

    async def settled(self) -> None:
        """Wait until nothing is under way; also what a cancelled caller has left."""
        here = asyncio.get_running_loop()
        if self._loop is here and (self._waiting or self._under_way):
            self._quiet = self._quiet or asyncio.Event()
            await self._quiet.wait()
        while telling := [task for task in self._telling if task.get_loop() is here]:
            await asyncio.wait(telling)

    @property
    def _may_send(self) -> bool:
        """Whether what waits is to go out although something may be under way."""
        return not self._under_way or (
            len(self._under_way) < MOST_UNDER_WAY and len(self._waiting) >= WORTH_A_CALL
        )

    def _send_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send when the loop comes round: others, who were answered just now, may add until then.

        One whose last job was alone will be alone with the next, and is not kept waiting.
        """
        if not self._sending:
            self._sending = True
            loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        while self._waiting and (batch := self._next()):
            self._under_way.append(batch)
            self._together = len(batch.jobs)
            saving = self._operations.save_in_one(batch.nodes)
            batch.begun = self._runtime.begin(saving, batch.untold, batch.ended, self._line)
        if self._quiet is not None:
            self._look_whether_quiet(self._quiet)

    def _next(self) -> _Batch | None:
        """What the next call adds: nothing if a call that is under way is to end before it."""
        # Who was cancelled before the job was sent does not want it any more.
        self._waiting = wanted = [each for each in self._waiting if not each[1].done()]
        if not wanted or not self._may_send:
            return None
        # Two calls have as much to do each, as one waits for the other.
        jobs = len(wanted)
        for batch in self._under_way:
            jobs += len(batch.jobs)
        share = -(-jobs // MOST_UNDER_WAY) if jobs >= MOST_UNDER_WAY * WORTH_A_CALL else jobs
        # One call: what becomes of another one is nothing to those in this one.
        nodes = [node for node, _ in wanted[: min(share, MOST_ADDED)]]
        count = in_one_call(nodes)
        self._waiting = wanted[count:]
        return _Batch(self, wanted[:count], nodes[:count])

    def ended(self, batch: _Batch, begun: Begun[list[JobSnapshot | JobError]]) -> None:
        """A call has ended: its callers are answered, once the plugins have been told."""
        saved: Sequence[JobSnapshot | BaseException]
        try:
            saved = begun.result()
        except asyncio.CancelledError as error:
            saved = [error] * len(batch.jobs)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            saved = [of_one(error, node) for node, _ in batch.jobs]
        self._under_way.remove(batch)
        if batch.untold:
            # A plugin may add to this very queue meanwhile, so the next call waits for no plugin.
            telling = asyncio.create_task(self._tell(batch, saved))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        else:
            _answer(batch, saved)
        if self._waiting and self._may_send:
            self._send_soon(asyncio.get_running_loop())
        if self._quiet is not None:
            self._look_whether_quiet(self._quiet)

    def _look_whether_quiet(self, quiet: asyncio.Event) -> None:
        if not self._waiting and not self._under_way:
            quiet.set()
            self._quiet = None

    async def _tell(self, batch: _Batch, saved: Sequence[JobSnapshot | BaseException]) -> None:
        try:
            await self._runtime.dispatcher.publish(batch.untold)
        finally:
            _answer(batch, saved)


def _answer(batch: _Batch, saved: Sequence[JobSnapshot | BaseException]) -> None:
    for (_, future), result in zip(batch.jobs, saved, strict=True):
        if future.done():
            continue
        if isinstance(result, asyncio.CancelledError):  # the loop is being ended
            future.cancel()
        elif isinstance(result, BaseException):
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
